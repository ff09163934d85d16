"""The doctor as an operator calls it, against real faults."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tailrace.settings import Settings
from tailrace.store.database import Database
from tests.outage_support import Served, served
from tests.patience import asked_again
from tests.write_support import value

# What a whole walk may take on a machine that is busy with other things.
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Told:
    """What the doctor said."""

    code: int
    out: str
    err: str

    @property
    def findings(self) -> list[dict[str, str]]:
        document = json.loads(self.out)
        assert list(document) == ["ok", "findings"]
        assert document["ok"] is (document["findings"] == []) is (self.code == 0)
        for finding in document["findings"]:
            assert set(finding) - {"runId"} == {"code", "severity", "detail", "action"}
            assert all(isinstance(text, str) and text for text in finding.values())
        found: list[dict[str, str]] = document["findings"]
        return found

    @property
    def codes(self) -> list[str]:
        return sorted({finding["code"] for finding in self.findings})

    def of(self, code: str) -> dict[str, str]:
        """Return the one finding with this code."""
        (found,) = [finding for finding in self.findings if finding["code"] == code]
        return found


Doctor = Callable[..., Awaitable[Told]]
MakeSettings = Callable[..., Settings]
AGENTS = Path(__file__).parent / "agents.py"


@pytest.fixture
async def server(settings: MakeSettings) -> AsyncIterator[Served]:
    """All roles in a process of their own."""
    async with served(settings(), app=AGENTS) as started:
        yield started


@pytest.fixture
def doctor(settings: MakeSettings, database: Database, tmp_path: Path) -> Doctor:
    """Run `tailrace doctor --json …` in a process of its own; its canary is gone afterwards."""
    given = settings()
    assert given.database_url is not None
    url = given.database_url.get_secret_value()

    async def run(*args: str, text: bool = False, leaves: int = 0, **environment: str) -> Told:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tailrace", "doctor", *([] if text else ["--json"]), *args,
            env={name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
            | {"TAILRACE_DATABASE_URL": url, "TAILRACE_DB_SCHEMA": database.schema, "HOME": str(tmp_path)}
            # As the servers have them: an agent counts as served for as long as its worker's lease.
            | {"TAILRACE_LEASE_SECONDS": str(given.lease_seconds), "TAILRACE_TX_TIMEOUT_MS": str(given.tx_timeout_ms)}
            | environment,
            cwd=tmp_path,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, err = await process.communicate()
        assert process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        assert await canaries(database) == leaves
        return Told(process.returncode, out.decode(), err.decode())

    return run


async def finding(
    doctor: Doctor, codes: Sequence[str], *args: str, text: bool = False, leaves: int = 0, **environment: str
) -> Told:
    """Return what the doctor says of a system that has exactly this, or what it says instead each time it is asked."""

    def is_expected(told: Told) -> bool:
        return told.codes == sorted(codes) if codes else told.code == 0

    return await asked_again(lambda: doctor(*args, text=text, leaves=leaves, **environment), is_expected)


async def well(doctor: Doctor, *args: str, text: bool = False, leaves: int = 0, **environment: str) -> Told:
    """Return what the doctor says of a system that has nothing."""
    return await finding(doctor, (), *args, text=text, leaves=leaves, **environment)


async def canaries(database: Database) -> Any:
    """Return how many rows of any table are a canary's."""
    return await value(
        database,
        "select (select count(*) from tailrace.runs where id like 'canary-%')"
        " + (select count(*) from tailrace.run_events where run_id like 'canary-%')"
        " + (select count(*) from tailrace.agents where name like 'tailrace:canary:%')",
    )
