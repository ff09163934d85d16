"""The archive on a server that speaks S3: it wants a key that it knows, objects go up in parts, and it may be away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tailrace.settings import Settings
from tailrace.store.database import Database
from tests.archive_support import all_rows, finished
from tests.cli.conftest import Done, Tailrace, environment, tailrace  # noqa: F401 - fixtures
from tests.npm import NODE, NPM, REASON, install
from tests.outage_support import served
from tests.patience import PATIENCE_SECONDS
from tests.servers import Server, free_port
from tests.write_support import execute

PACKAGE = "s3rver@3.7.1"
BUCKET, PREFIX = "archive", "some/where"
# The one that s3rver knows.  It does not check what is signed with it (version 4), only that it is signed.
KEY = "S3RVER"
# obstore sends what is larger in several parts.
PART_BYTES = 5 * 2**20
FAILED = 1

pytestmark = pytest.mark.skipif(NPM is None or NODE is None, reason=REASON)


class S3:
    """A bucket, by the place and the variables that name it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self._objects = folder / BUCKET / PREFIX
        self.place = {
            "TAILRACE_ARCHIVE_URL": f"s3://{BUCKET}/{PREFIX}",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": KEY,
            "AWS_REGION": "us-east-1",
        }

    @property
    def objects(self) -> list[Path]:
        """The files of the events' objects."""
        return sorted(self._objects.glob("*.parquet._S3rver_object"))


@pytest.fixture(scope="module")
def s3rver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, installed where nothing else is."""
    folder = tmp_path_factory.mktemp("s3rver")
    install(folder, PACKAGE)
    return folder / "node_modules" / "s3rver" / "bin" / "s3rver.js"


@pytest.fixture
def s3(s3rver: Path, tmp_path: Path) -> Iterator[S3]:
    assert NODE is not None
    port = free_port()
    folder = tmp_path / "s3"
    folder.mkdir()
    where: list[str | Path] = [
        "--directory",
        folder,
        "--address",
        "127.0.0.1",
        "--port",
        str(port),
        "--configure-bucket",
        BUCKET,
    ]
    with Server([NODE, s3rver, "--silent", *where], port) as server:
        yield S3(server, folder)


@asynccontextmanager
async def reading(settings: Settings, s3: S3) -> AsyncIterator[httpx2.AsyncClient]:
    """Serve the API in a process of its own, which is told where the archive is."""
    async with (
        served(settings, app=None, role="api", **s3.place) as server,
        httpx2.AsyncClient(base_url=server.address, timeout=PATIENCE_SECONDS) as http,
    ):
        yield http


def document(done: Done) -> Any:
    assert done.code == 0, done
    return json.loads(done.out)


async def large(database: Database, run_id: str) -> None:
    """Make a finished run whose events take more than a part, however they are compressed."""
    await finished(database, run_id, events=250)
    await execute(
        database,
        "update tailrace.run_events as event set data = json_build_object('noise', ("
        " select string_agg(md5(random()::text || event.seq || n), '') from generate_series(1, 2000) as n))"
        " where run_id = $1 and data is not null",
        run_id,
    )


async def test_a_run_goes_to_s3_is_read_there_comes_back_and_is_forgotten(
    database: Database,
    settings: Callable[..., Settings],
    tailrace: Tailrace,  # noqa: F811 - the fixture
    s3: S3,
) -> None:
    """As with a folder: byte for byte, and after a purge the bucket holds nothing of it."""
    await large(database, "large")
    await finished(database, "small")
    before = await all_rows(database)
    async with reading(settings(), s3) as http:

        async def streams() -> list[str]:
            return [(await http.get(f"/api/agents/runs/{run}/stream")).text for run in ("large", "small")]

        told = await streams()
        done = document(await tailrace("archive", "run", "--older-than", "0", "--json", **s3.place))
        assert (done["runs"], done["notArchivable"]) == (2, [])
        assert sum(len(rows) for rows in (await all_rows(database)).values()) == 2
        assert max(path.stat().st_size for path in s3.objects) > PART_BYTES
        assert await streams() == told
        assert document(await tailrace("archive", "restore", "large", "--json", **s3.place))["eventsRestored"] == 252
        assert (await all_rows(database))["large"] == before["large"]
        document(await tailrace("purge", "large", "small", "--yes", "--json", **s3.place))
    assert s3.objects == []
    assert await all_rows(database) == {}


async def test_a_server_that_is_away_or_refuses_loses_nothing(
    database: Database,
    settings: Callable[..., Settings],
    tailrace: Tailrace,  # noqa: F811 - the fixture
    s3: S3,
) -> None:
    """A wrong key and a dead server fail the command and delete no row; readers are told to come again."""
    await finished(database, "r")
    before = await all_rows(database)
    wrong = await tailrace("archive", "run", "--older-than", "0", **s3.place | {"AWS_ACCESS_KEY_ID": "another"})
    assert (wrong.code, "the archive at s3://archive/some/where" in wrong.err) == (FAILED, True), wrong
    s3.server.kill()
    away = await tailrace("archive", "run", "--older-than", "0", **s3.place)
    assert (away.code, "the archive at s3://archive/some/where" in away.err) == (FAILED, True), away
    assert await all_rows(database) == before
    s3.server.start()
    document(await tailrace("archive", "run", "--older-than", "0", "--json", **s3.place))

    s3.server.kill()
    async with reading(settings(), s3) as http:
        answer = await http.get("/api/agents/runs/r/events")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:tailrace:problem:archive-unavailable")
        s3.server.start()
        events = (await http.get("/api/agents/runs/r/events")).json()["events"]
        assert [event["seq"] for event in events] == [row[1] for row in before["r"]]


async def test_an_object_that_the_bucket_has_lost_is_gone_and_not_away(
    database: Database,
    settings: Callable[..., Settings],
    tailrace: Tailrace,  # noqa: F811 - the fixture
    s3: S3,
) -> None:
    """410 with the position from which the rest can be had."""
    await finished(database, "r")
    document(await tailrace("archive", "run", "--older-than", "0", "--json", **s3.place))
    for path in s3.objects:
        path.unlink()
    async with reading(settings(), s3) as http:
        answer = await http.get("/api/agents/runs/r/events")
    assert answer.status_code == 410
    assert answer.json()["earliestFromSeq"] == 5
