"""Commands, as a user or a script runs them."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from tailrace import __version__
from tailrace.store.database import Database
from tailrace.store.runs import RunRequest, Runs
from tests.cli.conftest import Tailrace
from tests.patience import PATIENCE_SECONDS

FAILED, USAGE = 1, 2


async def start(tailrace: Tailrace, agent: str, *more: str) -> str:
    done = await tailrace("runs", "start", agent, "--json", *more)
    assert done.code == 0, done.err
    run_id: str = json.loads(done.out)["runId"]
    return run_id


async def test_a_run_is_started_and_watched_to_its_end(tailrace: Tailrace, server: str) -> None:
    """`runs watch --json` prints each event once, in order, and ends with the run."""
    run_id = await start(tailrace, "count", "--input", '{"to": 20}')
    for way in ((), ("--url", server)):
        done = await tailrace("runs", "watch", run_id, "--json", *way)
        assert done.code == 0
        events = [json.loads(line) for line in done.out.splitlines()]
        assert [event["seq"] for event in events] == list(range(1, 25))
        assert events[-1]["type"] == "RunFinished"
    rest = await tailrace("runs", "watch", run_id, "--json", "--from-seq", "22")
    assert [json.loads(line)["seq"] for line in rest.out.splitlines()] == [23, 24]


async def test_start_can_watch_and_repeat_itself(tailrace: Tailrace, server: str) -> None:
    """`--watch` follows what was started; the same idempotency key starts nothing new."""
    watched = await tailrace("runs", "start", "count", "--input", '{"to": 1}', "--run-id", "one", "--watch")
    assert "RunFinished" in watched.out.splitlines()[-1]
    first = await start(tailrace, "count", "--input", '{"to": 1}', "--idempotency-key", "k")
    assert await start(tailrace, "count", "--input", '{"to": 1}', "--idempotency-key", "k") == first
    other = await tailrace("runs", "start", "count", "--input", '{"to": 2}', "--idempotency-key", "k")
    assert (other.code, "422" in other.err) == (FAILED, True)


async def test_list_and_show_print_what_is_there(tailrace: Tailrace, server: str) -> None:
    """Lists page by cursor; show has the output; both have a text form that cuts no id."""
    ids = [await start(tailrace, "count", "--input", '{"to": 0}', "--run-id", f"{'r' * 100}-{n}") for n in range(3)]
    page = json.loads((await tailrace("runs", "list", "--limit", "2", "--json")).out)
    rest = json.loads((await tailrace("runs", "list", "--cursor", page["nextCursor"], "--json")).out)
    assert [run["runId"] for run in (*page["runs"], *rest["runs"])] == ids[::-1]
    text = (await tailrace("runs", "list")).out
    assert all(run_id in text for run_id in ids)
    await tailrace("runs", "watch", ids[0])
    shown = json.loads((await tailrace("runs", "show", ids[0], "--json")).out)
    assert (shown["state"], shown["output"]) == ("finished", {"counted": 0})
    async with httpx2.AsyncClient(base_url=server, timeout=PATIENCE_SECONDS) as http:
        assert (await http.get(f"/api/agents/runs/{ids[0]}")).json() == shown
    assert "finished" in (await tailrace("runs", "show", ids[0])).out


async def test_cancel_ends_a_run_once(tailrace: Tailrace, server: str) -> None:
    """A second cancel fails: there is nothing left to cancel."""
    run_id = await start(tailrace, "wait")
    assert (await tailrace("runs", "cancel", run_id)).code == 0
    watched = await tailrace("runs", "watch", run_id, "--json")
    assert json.loads(watched.out.splitlines()[-1])["type"] == "RunCancelled"
    again = await tailrace("runs", "cancel", run_id)
    assert (again.code, again.out) == (FAILED, "")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("runs", "show", "nobody"), FAILED, "there is no run 'nobody'"),
        (("runs", "watch", "nobody"), FAILED, "there is no run 'nobody'"),
        (("runs", "start", "nobody"), FAILED, "there is no agent 'nobody'"),
        (("runs", "start", "a", "--input", "{nope"), USAGE, "--input"),
        (("runs", "start", "a", "--input", '{"a": NaN}'), USAGE, "NaN"),
        (("runs", "list", "--limit", "0"), USAGE, "--limit"),
        (("runs", "list", "--state", "resting"), USAGE, "resting"),
        (("runs", "list", "--cursor", "x"), FAILED, "cursor"),
        (("runs", "list", "--url", "http://127.0.0.1:9"), FAILED, "could not reach Tailrace"),
        (("serve", "--host", "0.0.0.0"), USAGE, "loopback"),  # noqa: S104 - that is what is refused
        (("serve", "--host", "example.com"), USAGE, "loopback"),
        (("serve", "--app", "nowhere.py"), USAGE, "there is no file"),
        (("serve", "--app", "no_such_module"), USAGE, "no module"),
        (("serve", "--app", "json"), USAGE, "has no 'app'"),
        (("serve", "--app", "json:dumps"), USAGE, "not a tailrace.App"),
        (("serve", "--role", "manager"), USAGE, "manager"),
        (("demo", "/no/such/folder"), USAGE, "there is no folder"),
        (("nonsense",), USAGE, "nonsense"),
        (("runs",), USAGE, ""),
    ],
)
async def test_a_users_mistake_is_one_clear_error(
    tailrace: Tailrace, args: tuple[str, ...], code: int, said: str
) -> None:
    """The exit code is as promised, the text names the trouble, and there is no traceback."""
    done = await tailrace(*args)
    assert done.code == code
    assert said in done.err + done.out
    assert "Traceback" not in done.err


async def test_an_app_that_does_not_import_says_where(tailrace: Tailrace, tmp_path: Path) -> None:
    """The error names file and line of the user's own code."""
    (tmp_path / "broken.py").write_text("import tailrace\n\nraise ValueError('not today')\n")
    done = await tailrace("serve", "--app", "broken.py")
    assert done.code == USAGE
    assert "not today" in done.err
    assert "broken.py, line 3" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"TAILRACE_LEASE_SECOND": "3"}, "did you mean TAILRACE_LEASE_SECONDS?"),
        ({"TAILRACE_NONSENSE": "3"}, "TAILRACE_NONSENSE is not a setting"),
        ({"TAILRACE_LEASE_SECONDS": "soon"}, "TAILRACE_LEASE_SECONDS"),
        ({"TAILRACE_LEASE_SECONDS": "-1"}, "greater than or equal to 1"),
        ({"TAILRACE_BUS_URL": "kafka://"}, "must begin with postgres://, memory://, redis://"),
        ({"TAILRACE_DATABASE_URL": "mysql://root:secret@db/x"}, "TAILRACE_DATABASE_URL: must begin with postgresql://"),
        ({"TAILRACE_DATABASE_URL": "", "DATABASE_URL": "mysql://root:secret@db/x"}, ": DATABASE_URL: must begin"),
        ({"TAILRACE_DB_SCHEMA": "Robert'); drop"}, "TAILRACE_DB_SCHEMA"),
    ],
)
async def test_a_bad_setting_is_refused_by_name(tailrace: Tailrace, settings: dict[str, str], said: str) -> None:
    """Unknown names and bad values end the start, with the name and what is allowed, and without the secret."""
    done = await tailrace("serve", "--port", "0", **settings)
    assert done.code == USAGE
    assert said in done.err
    assert "secret" not in done.err
    assert "Traceback" not in done.err


async def test_db_creates_the_tables_and_serve_refuses_without_them(tailrace: Tailrace) -> None:
    """`serve` on a database that is behind ends with 1 and names the command; `db upgrade` is that command."""
    fresh = {"TAILRACE_DB_SCHEMA": "made_by_db_upgrade"}
    refused = await tailrace("serve", "--port", "0", **fresh)
    assert (refused.code, "tailrace db upgrade" in refused.err) == (FAILED, True)
    behind = await tailrace("db", "status", "--json", **fresh)
    assert (behind.code, json.loads(behind.out)["state"]) == (FAILED, "behind")
    applied = json.loads((await tailrace("db", "upgrade", "--json", **fresh)).out)["applied"]
    assert applied[0].startswith("0001_")
    again = await tailrace("db", "upgrade", **fresh)
    assert (again.code, "nothing to do" in again.out) == (0, True)
    current = await tailrace("db", "status", "--json", **fresh)
    assert (current.code, json.loads(current.out)["state"]) == (0, "current")


async def test_serve_refuses_a_schema_that_is_ahead(tailrace: Tailrace, database: Database) -> None:
    """A newer schema is not touched: the error names both versions."""
    async with database.connection() as connection:
        await connection.execute(
            f"insert into \"{database.schema}\".schema_migrations (version, name) values (9999, '9999_later.sql')"
        )
    for command in (("serve", "--port", "0"), ("db", "upgrade"), ("outbox", "status")):
        refused = await tailrace(*command)
        assert (refused.code, "9999" in refused.err) == (FAILED, True)


async def test_a_database_that_is_away_is_a_clear_error(tailrace: Tailrace) -> None:
    """It names the address and never the password."""
    done = await tailrace("db", "status", TAILRACE_DATABASE_URL="postgresql://u:secret@127.0.0.1:9/none")
    assert done.code == FAILED
    assert "127.0.0.1:9" in done.err
    assert "secret" not in done.err
    assert "Traceback" not in done.err


async def test_outbox_status_shows_the_backlog(tailrace: Tailrace, database: Database) -> None:
    """Events that nobody publishes are counted, the run with the most first."""
    empty = json.loads((await tailrace("outbox", "status", "--json")).out)
    assert empty == {"backlog": 0, "oldestUnpublishedSeconds": None, "runs": []}
    for run_id in ("a", "b"):
        await Runs(database).create(RunRequest(run_id, "x", None, 1))
    async with database.connection() as connection:
        await connection.execute(f"""
            insert into "{database.schema}".run_events (run_id, seq, ts, type, source, fn)
            values ('b', 2, 1, 'DebugTrace', 'worker', 'x');
            update "{database.schema}".runs set last_seq = 2 where id = 'b'
        """)
    found = json.loads((await tailrace("outbox", "status", "--json")).out)
    assert found["backlog"] == 3
    assert found["oldestUnpublishedSeconds"] > 0
    assert found["runs"] == [
        {"runId": "b", "nextSeq": 1, "lastSeq": 2, "backlog": 2},
        {"runId": "a", "nextSeq": 1, "lastSeq": 1, "backlog": 1},
    ]
    assert "3 events wait" in (await tailrace("outbox", "status")).out


async def test_db_url_is_what_psql_takes(tailrace: Tailrace, tailrace_database: str) -> None:
    """The URL with its password, as text or as JSON."""
    assert (await tailrace("db", "url")).out == f"{tailrace_database}\n"
    assert json.loads((await tailrace("db", "url", "--json")).out) == {"url": tailrace_database}


async def test_schema_prints_the_events_json_schema(tailrace: Tailrace) -> None:
    """It is JSON, and it is of the canonical event."""
    schema = json.loads((await tailrace("schema")).out)
    assert json.loads((await tailrace("schema", "--json")).out) == schema
    assert list(schema["properties"]) == ["runId", "seq", "ts", "type", "v", "source", "name", "fn", "data"]


async def test_help_and_version_are_there(tailrace: Tailrace) -> None:
    """Every command explains itself."""
    assert (await tailrace("--version")).out == f"tailrace {__version__}\n"
    for command in (
        (),
        ("demo",),
        ("serve",),
        ("db",),
        ("runs",),
        ("runs", "watch"),
        ("outbox", "status"),
        ("schema",),
    ):
        done = await tailrace(*command, "--help")
        assert done.code == 0
        assert "Usage" in done.out
