"""Everything a campaign runs on: the cluster, its small disk, the links and the servers; closed whatever happens."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from faults.buses import BUSES, CampaignBus
from faults.checks import Acknowledged
from faults.cluster import Cluster, give_to
from faults.disk import SmallDisk, small_disk
from faults.proxy import Link
from faults.servers import ROOT, Server, environment_for
from faults.table import Table
from tailrace.local.account import can_reach, server_account

# Two processes of each role, as in a large deployment, and one that does everything, as in a small one: its outbox
# hands over what its own worker has committed without asking Postgres first.
ALONE = "all"
ROLES = ("api", "api", "worker", "worker", "outbox", "outbox", ALONE)


@dataclass(slots=True)
class World:
    """What faults are done to, and what tells whether they bit.  ``disk`` is why there is none when it is text."""

    cluster: Cluster
    table: Table
    disk: SmallDisk | str
    bus: CampaignBus
    links: list[Link]
    servers: list[Server]
    acks: Path

    def of(self, role: str) -> list[Server]:
        """The servers that do what a role does."""
        return [server for server in self.servers if server.role in (role, ALONE)]

    def keep_logs(self, folder: Path) -> None:
        """Copy what the servers and Postgres have logged, for whoever looks into a violation."""
        folder.mkdir(parents=True, exist_ok=True)
        for log in (self.cluster.log, *(server.log for server in self.servers)):
            if log.exists():
                shutil.copyfile(log, folder / log.name)

    def acknowledged(self, prefix: str) -> list[Acknowledged]:
        """What agents of runs with this prefix were told is durable.  A line cut by a kill acknowledges nothing."""
        lines = self.acks.read_text().split("\n")[:-1] if self.acks.exists() else []
        found = [line.split(" ") for line in lines if line.startswith(prefix)]
        return [Acknowledged(run_id, int(epoch), token) for run_id, epoch, token in found]


@asynccontextmanager
async def opened(bus: str, bad_build: str | None) -> AsyncIterator[World]:
    """Start everything, and end every process that was started, whatever happens in the block."""
    async with AsyncExitStack() as stack:
        account = server_account(Path("/nonexistent"))
        folder = Path(tempfile.mkdtemp(prefix="tailrace-faults-"))
        if not can_reach(account, folder.parent):
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix="tailrace-faults-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        give_to(account, folder)
        disk = small_disk(folder / "disk")
        if isinstance(disk, SmallDisk):
            stack.callback(disk.close)
            give_to(account, disk.folder)
        cluster = Cluster(folder, account, disk.folder if isinstance(disk, SmallDisk) else None)
        stack.callback(cluster.close)
        await cluster.create()
        table = Table(cluster)
        stack.push_async_callback(table.close)
        campaign_bus = await stack.enter_async_context(BUSES[bus](folder))
        world = World(cluster, table, disk, campaign_bus, [], [], folder / "acks")
        for number, role in enumerate(ROLES):
            link = Link(f"{role}-{ROLES[:number].count(role) + 1}", cluster.port)
            await link.open()
            stack.push_async_callback(link.close)
            world.links.append(link)
            environment = environment_for(cluster, link, campaign_bus.url, world.acks)
            server = Server(link.name, role, link, environment, folder, bad_build)
            stack.callback(server.close)
            world.servers.append(server)
        await _upgrade(environment | {"TAILRACE_DATABASE_URL": cluster.url()})
        for server in world.servers:
            server.start()
        for server in world.servers:
            await server.ready()
        yield world


async def _upgrade(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tailrace", "db", "upgrade"]
    done = await asyncio.to_thread(subprocess.run, command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"tailrace db upgrade failed: {done.stderr}")
