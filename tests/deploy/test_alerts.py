"""The alerts we ship: by promtool, and in a real Prometheus that scrapes real servers in which each is provoked.

The real one uses a copy of the rules in which five minutes are half a minute, and scrapes once a second; the
conditions, their bounds and the metrics are those of the file.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

import tailrace
from tailrace.settings import Settings
from tests.outage_support import Served, served
from tests.patience import PATIENCE_SECONDS, TRIES
from tests.servers import free_port
from tests.write_support import until

PROMETHEUS = Path(__file__).parent.parent.parent / "deploy" / "prometheus"
RULES = PROMETHEUS / "tailrace.rules.yml"
AGENTS = Path(__file__).parent / "agents.py"
CONFIGURATION = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: tailrace
    static_configs:
      - targets: {targets}
"""
WINDOW_SECONDS = 30
FLOOD = 1000
# What TailraceHighLag takes for late, and a little more.
LATE_SECONDS = 1.2
FEW = 50

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="there is no Prometheus; on Debian: apt-get install prometheus",
)


class Prometheus:
    """A Prometheus of our own."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def firing(self) -> set[str] | None:
        """Return the names of the alerts that fire, None while it does not answer."""
        try:
            answer = await self._http.get("/alerts")
        except httpx2.HTTPError:
            return None
        if answer.status_code != httpx2.codes.OK:
            return None
        return {each["labels"]["alertname"] for each in answer.json()["data"]["alerts"] if each["state"] == "firing"}

    async def value(self, query: str) -> float | None:
        """Return what a query gives now, None for nothing."""
        result = (await self._http.get("/query", params={"query": query})).json()["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    async def until_firing(self, name: str) -> None:
        """Wait until an alert fires."""

        async def fires() -> bool | None:
            return True if name in (await self.firing() or ()) else None

        await until(fires)

    async def fires_in_time(self, name: str) -> bool:
        """Return whether an alert fires while what gives it a reason is within the window, and a little longer."""
        deadline = time.monotonic() + WINDOW_SECONDS + 10
        while not (fires := name in (await self.firing() or ())) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        return fires

    async def until_only(self, *names: str) -> None:
        """Wait until these alerts fire and no other; a machine that stood still may have given one a reason before."""

        async def fire() -> bool | None:
            return True if await self.firing() == set(names) else None

        await until(fire)


@asynccontextmanager
async def prometheus(folder: Path, *scraped: Served) -> AsyncIterator[Prometheus]:
    """Run Prometheus with the rules, scaled, over these servers."""
    port = free_port()
    text = RULES.read_text("utf-8")
    assert text.count("[5m]") == 2
    (folder / "rules.yml").write_text(text.replace("[5m]", f"[{WINDOW_SECONDS}s]"), "utf-8")
    targets = [f"127.0.0.1:{server.port}" for server in scraped]
    (folder / "prometheus.yml").write_text(CONFIGURATION.format(targets=targets), "utf-8")
    process = await asyncio.create_subprocess_exec(
        *("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"),
        f"--web.listen-address=127.0.0.1:{port}",
        cwd=folder,
    )
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=PATIENCE_SECONDS) as http:
            started = Prometheus(http)

            async def scrapes() -> bool | None:
                assert process.returncode is None
                if await started.firing() is None:
                    return None
                return True if await started.value("count(up == 1)") == len(scraped) else None

            await until(scrapes)
            yield started
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def promtool(*args: str) -> str:
    """Run promtool beside the rules; return what it said, and fail when it fails."""
    process = await asyncio.create_subprocess_exec(
        "promtool", *args, cwd=PROMETHEUS, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    return said


async def test_the_rules_fire_at_their_bounds_and_not_before() -> None:
    """promtool's own unit tests of the file, at the bound and beyond it."""
    assert "4 rules found" in await promtool("check", "rules", "tailrace.rules.yml")
    assert "SUCCESS" in await promtool("test", "rules", "tailrace.rules.test.yml")


async def test_each_alert_fires_in_a_real_prometheus_when_its_condition_is_real(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """None on a healthy system; then a silent run, a stopped outbox, what it publishes late, clients that flap."""
    async with (
        served(settings(), role="api", TAILRACE_STALL_SECONDS="3") as api,
        served(settings(), role="outbox") as outbox,
        served(settings(), app=AGENTS, role="worker"),
        prometheus(tmp_path, api, outbox) as alerts,
        tailrace.Client(api.address) as client,
    ):
        # Fewer events than the bound of the backlog: whenever it is sampled, the alert has no reason.
        run = await client.start("flood", FEW)
        assert [event.seq async for event in client.stream(run.run_id)] == list(range(1, FEW + 3))

        async def scraped() -> bool | None:
            published = await alerts.value("sum(tailrace_events_published_total)")
            return True if published is not None and published > FEW else None

        await until(scraped)
        await alerts.until_only()

        waiting = await client.start("wait")
        await alerts.until_only("TailraceRunStall")

        for _ in range(TRIES):
            outbox.freeze()
            late = await client.start("flood", FLOOD)
            await alerts.until_firing("TailraceOutboxBacklog")
            await asyncio.sleep(LATE_SECONDS)
            outbox.thaw()
            assert len([event async for event in client.stream(late.run_id)]) == FLOOD + 2
            # A rate needs two samples within the half minute: where the machine stood still for that long, there are
            # none around the events that came late.
            if await alerts.fires_in_time("TailraceHighLag"):
                break
        else:
            pytest.fail("TailraceHighLag never fired")

        async with httpx2.AsyncClient(base_url=api.address, timeout=PATIENCE_SECONDS) as http:
            for _ in range(11):
                path = f"/api/agents/runs/{waiting.run_id}/stream"
                async with http.stream("GET", path, headers={"Last-Event-ID": "1"}) as stream:
                    assert stream.status_code == httpx2.codes.OK
        await alerts.until_firing("TailraceStreamChurn")
