"""`tailrace archive` and `tailrace purge`, as an operator or a script runs them; and the worker's duty."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tailrace.archive.opening import open_vault
from tailrace.errors import SettingsError
from tailrace.settings import Settings, load_settings
from tailrace.store.database import Database
from tailrace.telemetry import DutyFailed, RunNotArchivable, RunsArchived
from tests.archive_support import all_rows, finished
from tests.cli.conftest import Tailrace, environment, tailrace  # noqa: F401 - fixtures
from tests.write_support import execute, running, value

FAILED, USAGE = 1, 2


async def test_a_run_goes_is_listed_comes_back_and_is_forgotten(
    database: Database,
    tailrace: Tailrace,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    """Every command has its JSON, and a text for people."""
    place = {"TAILRACE_ARCHIVE_URL": f"file://{tmp_path}/archive"}
    for run_id in ("a", "b"):
        await finished(database, run_id, events=10)
    before = await all_rows(database)
    none = await tailrace("archive", "run", "--json", **place)
    assert (none.code, json.loads(none.out)) == (
        0, {"runs": 0, "events": 0, "rowsDeleted": 0, "notArchivable": []}
    )  # fmt: skip
    done = await tailrace("archive", "run", "--older-than", "0", "--json", **place)
    assert json.loads(done.out) == {"runs": 2, "events": 26, "rowsDeleted": 24, "notArchivable": []}, done.err
    listed = json.loads((await tailrace("archive", "list", "--limit", "1", "--json", **place)).out)
    assert listed["nextAfter"] == "a"
    (first,) = listed["runs"]
    assert (first["runId"], first["events"], first["firstRow"], first["restoredAt"]) == ("a", 13, 0, None)
    assert (tmp_path / "archive" / first["object"]).exists()
    rest = json.loads((await tailrace("archive", "list", "--after", "a", "--json")).out)
    assert ([run["runId"] for run in rest["runs"]], rest["nextAfter"]) == (["b"], None)
    text = (await tailrace("archive", "list")).out
    assert first["object"] in text
    watched = await tailrace("runs", "watch", "a", "--json", **place)
    assert [json.loads(line)["seq"] for line in watched.out.split("\n") if line] == list(range(1, 14))
    back = await tailrace("archive", "restore", "a", "--json", **place)
    assert json.loads(back.out) == {"runId": "a", "archived": True, "eventsRestored": 12}
    assert (await all_rows(database))["a"] == before["a"]
    assert "restored 0 events" in (await tailrace("archive", "restore", "a", **place)).out
    purged = await tailrace("purge", "a", "b", "--yes", "--json", **place)
    assert json.loads(purged.out) == {"runs": 2, "rowsDeleted": 14, "objects": 1}
    assert await all_rows(database) == {}
    assert "nothing is archived" in (await tailrace("archive", "list")).out


@pytest.mark.parametrize(
    ("args", "settings", "code", "said"),
    [
        (("archive", "run"), {}, USAGE, "TAILRACE_ARCHIVE_URL is not set"),
        (("archive", "restore", "r"), {}, USAGE, "TAILRACE_ARCHIVE_URL is not set"),
        (("archive", "restore", "nobody"), {}, FAILED, "there is no run 'nobody'"),
        (("archive", "run", "--older-than", "-1"), {}, USAGE, "--older-than"),
        (("archive", "run"), {"TAILRACE_ARCHIVE_URL": "relative"}, USAGE, "absolute path"),
        (("archive", "run"), {"TAILRACE_ARCHIVE_URL": "ftp://x/y"}, USAGE, "s3://"),
        (("archive", "run"), {"TAILRACE_ARCHIVE_URL": "s3://user:secret@b/y"}, USAGE, "no credentials"),
        (("archive", "run"), {"TAILRACE_ARCHIVE_URL": "/proc/nowhere/archive"}, FAILED, "could not make the archive"),
        (("archive", "run"), {"TAILRACE_RETENTION_DAYS": "0"}, USAGE, "TAILRACE_RETENTION_DAYS"),
        (("purge",), {}, USAGE, "--tenant"),
        (("purge", "r", "--tenant", "t"), {}, USAGE, "not both"),
        (("purge", "r"), {}, USAGE, "--yes"),
        (("purge", "nobody", "--yes"), {}, FAILED, "there is no run 'nobody'"),
    ],
)
async def test_a_mistake_is_one_clear_error(
    database: Database,
    tailrace: Tailrace,  # noqa: F811 - the fixture
    args: tuple[str, ...],
    settings: dict[str, str],
    code: int,
    said: str,
) -> None:
    """It names the trouble and what to do; nothing is removed."""
    await finished(database, "r")
    before = await all_rows(database)
    done = await tailrace(*args, **settings)
    assert (done.code, said in done.err + done.out) == (code, True), done
    assert "Traceback" not in done.err
    assert "secret" not in done.err
    assert await all_rows(database) == before


async def test_a_gap_is_named_and_fails_the_command(
    database: Database,
    tailrace: Tailrace,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    """What could be archived is; the exit code tells that something was not."""
    for run_id in ("gap", "whole"):
        await finished(database, run_id)
    await execute(database, "delete from tailrace.run_events where run_id = 'gap' and seq = 2")
    done = await tailrace("archive", "run", "--older-than", "0", "--json", TAILRACE_ARCHIVE_URL=str(tmp_path / "a"))
    assert done.code == FAILED
    assert json.loads(done.out)["notArchivable"] == ["gap"]
    assert "rows are missing of gap" in done.err


async def test_a_worker_archives_what_has_come_of_age(
    database: Database, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """By TAILRACE_RETENTION_DAYS, when it is told where; several workers share the work without harm."""
    for run_id in ("old", "gap", "young"):
        await finished(database, run_id)
    await execute(
        database, "update tailrace.runs set finished_at = finished_at - interval '8 days' where id in ('old', 'gap')"
    )
    await execute(database, "delete from tailrace.run_events where run_id = 'gap' and seq = 2")
    chosen = settings(archive_url=str(tmp_path), retention_days=7)
    async with running(chosen, {}, ("worker",)) as first:
        archived = await first.told.until(RunsArchived)
        assert (archived.runs, archived.events) == (1, 6)
        assert (await first.told.until(RunNotArchivable)).run_id == "gap"
    async with running(chosen, {}, ("worker",)) as second:
        assert (await second.told.until(RunNotArchivable)).run_id == "gap"
        assert not second.told.of(DutyFailed)
    archived_ids = await value(database, "select string_agg(id, ' ') from tailrace.runs where archived_at is not null")
    assert archived_ids == "old"


async def test_a_worker_without_a_place_archives_nothing(database: Database, settings: Callable[..., Settings]) -> None:
    """No TAILRACE_ARCHIVE_URL, no retention: rows stay for ever."""
    async with running(settings(), {}, ("worker",)):
        names = {task.get_name() for task in asyncio.all_tasks()}
    assert "worker.claim" in names
    assert "archive.keep" not in names


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is optional; a place without it is refused at start, with the command that mends it."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    for name in ("tailrace.archive.vault",):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SettingsError, match=r"pip install 'tailrace\[archive\]'"):
        open_vault("/somewhere")


@pytest.mark.parametrize("url", ["/var/lib/archive", "file:///var/a", "s3://bucket/a", "gs://b", "az://acct/box/a"])
def test_the_kinds_of_places(url: str) -> None:
    """A folder and the three stores, by one setting."""
    assert load_settings(archive_url=url).archive_url == url


async def test_nothing_optional_is_loaded_where_no_archive_is_named() -> None:
    """pyarrow alone takes 0.3 s and 60 MB."""
    code = "import sys, tailrace.cli.main, tailrace.runtime; sys.exit(bool({'pyarrow', 'obstore'} & set(sys.modules)))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
