"""Clients read an archived run under the same URL, from any position, without knowing."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

import tailrace
from tailrace.access import keyfile
from tailrace.access.keyfile import ApiKey
from tailrace.access.keys import hash_of, new_key
from tailrace.access.principal import Scope
from tailrace.archive.vault import MARKER, Vault
from tailrace.errors import ApiError
from tailrace.settings import Settings
from tailrace.store.database import Database
from tests.archive_support import archive_all, archiver, finished, objects_in
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS, Reading, away, reading, request
from tests.write_support import execute, fetch, value

MakeSettings = Callable[..., Settings]
EVENTS = 250
LAST = EVENTS + 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@asynccontextmanager
async def serving(settings: MakeSettings, folder: Path | None, **more: object) -> AsyncIterator[Reading]:
    url = str(folder) if folder is not None else None
    async with reading(settings(archive_url=url, **more)) as server:
        yield server


async def answers(port: int, run_id: str) -> dict[str, tuple[int, bytes]]:
    """Return status and body of every kind of reading of a run, from many positions."""
    paths = {f"{RUNS}/{run_id}"} | {
        f"{RUNS}/{run_id}/{kind}"
        for kind in ("events", "events?limit=1", "events?limit=1000", "stream", "stream?fromSeq=1")
    }
    positions = (0, 1, 2, 100, LAST - 2, LAST - 1, LAST, LAST + 1)
    paths |= {f"{RUNS}/{run_id}/events?fromSeq={seq}&limit=7" for seq in positions}
    asked: list[tuple[str, dict[str, str]]] = [(path, {}) for path in sorted(paths)]
    asked += [(f"{RUNS}/{run_id}/stream", {"Last-Event-ID": str(seq)}) for seq in positions]
    found = {}
    for path, headers in asked:
        async with request(port, path, headers=headers) as answer:
            found[f"{path} {headers}"] = (answer.status, await answer.rest())
    return found


async def test_every_answer_is_the_same_byte_for_byte(database: Database, settings: MakeSettings, folder: Path) -> None:
    """Streams and pages from the beginning, the middle, the end and beyond: before, archived, restored, and again."""
    for run_id in ("a", "r", "z"):
        await finished(database, run_id, events=EVENTS, size=8000 if run_id == "r" else 0)
    async with serving(settings, folder) as server:
        before = await answers(server.port, "r")
        assert {status for status, _ in before.values()} == {200, 204}
        await archive_all(database, folder)
        assert await value(database, "select count(*) from tailrace.run_events") == 3
        assert await answers(server.port, "r") == before
        await archiver(database, folder).restore("r")
        assert await answers(server.port, "r") == before
    async with serving(settings, folder) as another:
        await archive_all(database, folder)
        assert await answers(another.port, "r") == before
        async with tailrace.Client(another.url) as client:
            assert [event.seq async for event in client.stream("r")] == list(range(1, LAST + 1))


@pytest.mark.parametrize("left", [2, 50, 150, LAST - 1])
async def test_a_run_of_which_some_rows_are_deleted_reads_the_same(
    database: Database, settings: MakeSettings, folder: Path, left: int
) -> None:
    """As while rows are deleted or restored: the archive serves up to the first row that is in Postgres."""
    await finished(database, "r", events=EVENTS)
    async with serving(settings, folder) as server:
        before = await answers(server.port, "r")
        await archive_all(database, folder)
        await archiver(database, folder).restore("r")
        await execute(database, "delete from tailrace.run_events where seq < $1", left)
        assert await answers(server.port, "r") == before


async def test_a_stream_that_is_open_while_its_run_is_archived_goes_on(
    database: Database, settings: MakeSettings, folder: Path
) -> None:
    """A slow reader's next page comes from the archive."""
    await finished(database, "r", events=4000, size=500)
    async with serving(settings, folder) as server, server.stream() as answer:
        assert (await answer.upto(10)) == list(range(1, 11))
        await archive_all(database, folder)
        assert (await answer.seqs())[-1] == 4003


async def test_another_tenants_archived_run_is_not_there(
    database: Database, settings: MakeSettings, folder: Path, tmp_path: Path
) -> None:
    """The tenant is asked for as before: the answer is that of a run that does not exist."""
    await finished(database, "r", events=20)
    await archive_all(database, folder)
    keys = {}
    entries = []
    for tenant in ("default", "other"):
        key_id, keys[tenant] = new_key()
        scopes = (Scope.RUNS_READ,)
        entries.append(
            ApiKey(
                id=key_id,
                name="k",
                tenant=tenant,
                scopes=scopes,
                sha256=hash_of(keys[tenant]),
                created_at=keyfile.now(),
            )
        )
    path = tmp_path / "keys.json"
    keyfile.change(path, lambda found: (found.model_copy(update={"keys": tuple(entries)}), None), create=True)
    async with serving(settings, folder, api_keys_file=path) as server:
        for kind in ("stream", "events"):
            found = []
            for tenant, run_id in (("default", "r"), ("other", "r"), ("other", "nobody")):
                headers = {"Authorization": f"Bearer {keys[tenant]}"}
                async with request(server.port, f"{RUNS}/{run_id}/{kind}", headers=headers) as answer:
                    found.append((answer.status, (await answer.rest()).replace(b"nobody", b"r")))
            assert [status for status, _ in found] == [200, 404, 404]
            assert found[1] == found[2]


async def test_a_position_that_is_gone_is_410_with_the_earliest_one(
    database: Database, settings: MakeSettings, folder: Path
) -> None:
    """The object is lost for good: what follows the earliest position can still be had, on both endpoints."""
    await finished(database, "r", events=EVENTS)
    await archive_all(database, folder)
    for path in objects_in(folder):
        path.unlink()
    async with serving(settings, folder) as server:
        for kind in ("stream?fromSeq=5", "events?fromSeq=5", "stream"):
            async with request(server.port, f"{RUNS}/r/{kind}") as answer:
                assert answer.status == 410
                assert answer.header("content-type") == "application/problem+json"
                problem = json.loads(await answer.rest())
            assert problem["type"] == "urn:tailrace:problem:position-gone"
            assert problem["earliestFromSeq"] == LAST - 1
        assert await server.all_of(query=f"?fromSeq={problem['earliestFromSeq']}") == [LAST]
        async with server.stream(last_event_id=str(LAST)) as answer:
            assert answer.status == 204
        with pytest.raises(ApiError, match="410"):
            async with tailrace.Client(server.url) as client:
                _ = [event async for event in client.stream("r")]


@pytest.mark.parametrize("trouble", ["unmounted", "nobody said where", "refuses connections"])
async def test_a_store_that_is_away_passes(
    database: Database, settings: MakeSettings, folder: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams are asked to come again, pages are 503, runs that are in Postgres and the process are as ever."""
    await finished(database, "r", events=EVENTS)
    await archive_all(database, folder)
    await finished(database, "live", events=3)
    place: str | None = str(folder)
    match trouble:
        case "unmounted":
            shutil.move(folder, folder.with_name("moved"))
            shutil.copytree(folder.with_name("moved"), folder, ignore=lambda _, names: names)  # an empty mount point
        case "nobody said where":
            place = None
        case _:
            place = "s3://bucket/tailrace"
            for name, text in {
                "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
            }.items():  # fmt: skip
                monkeypatch.setenv(name, text)
    async with reading(settings(archive_url=place)) as server:
        async with server.stream() as answer:
            assert answer.status == 200
            body = await answer.rest()
            assert body.startswith(b"retry: ")
            assert b"id:" not in body
        async with request(server.port, f"{RUNS}/r/events") as answer:
            assert answer.status == 503
            assert json.loads(await answer.rest())["type"] == "urn:tailrace:problem:archive-unavailable"
        assert await server.all_of("live") == list(range(1, 7))
        async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as http:
            assert (await http.get(f"{server.url}/readyz")).status_code == 200
    if trouble == "unmounted":
        shutil.rmtree(folder)
        shutil.move(folder.with_name("moved"), folder)
        async with reading(settings(archive_url=place)) as server:
            assert await server.all_of() == list(range(1, LAST + 1))


async def test_many_readers_of_one_archived_run_hold_little(
    database: Database, settings: MakeSettings, folder: Path
) -> None:
    """Fifty streams at once, each from another position: all get what is theirs, and the loop is never held up."""
    await finished(database, "r", events=EVENTS)
    await archive_all(database, folder)
    async with serving(settings, folder) as server:
        found = await asyncio.gather(*(server.all_of(last_event_id=str(seq)) for seq in range(50)))
    assert found == [list(range(seq + 1, LAST + 1)) for seq in range(50)]


async def test_reading_never_blocks_the_loop(
    database: Database, settings: MakeSettings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store takes its time over one reader, the process answers others."""
    await finished(database, "r", events=EVENTS)
    await archive_all(database, folder)
    await finished(database, "live", events=3)
    loop = asyncio.get_running_loop()
    read, asked, answered = Vault.read, asyncio.Event(), asyncio.Event()

    def slow(vault: Vault, *args: object) -> object:
        loop.call_soon_threadsafe(asked.set)
        asyncio.run_coroutine_threadsafe(answered.wait(), loop).result()
        return read(vault, *args)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(Vault, "read", slow)
    async with serving(settings, folder) as server:
        slow_one = asyncio.create_task(server.all_of())
        await asked.wait()
        assert await server.all_of("live") == list(range(1, 7))
        answered.set()
        assert await slow_one == list(range(1, LAST + 1))


async def test_without_postgres_an_archived_run_is_trouble_that_passes(
    database: Database, settings: MakeSettings, folder: Path
) -> None:
    """Where the run lies is asked of Postgres: without it the stream comes again, as any other."""
    await finished(database, "r", events=5)
    await archive_all(database, folder)
    assert (folder / MARKER).exists()
    async with serving(settings, folder) as server:
        with away(server.services):
            async with server.stream() as answer:
                assert answer.status == 200
                assert (await answer.rest()).startswith(b"retry: ")
        assert len(await fetch(database, "select from tailrace.run_archive")) == 1
