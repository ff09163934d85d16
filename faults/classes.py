"""The fault classes.  Each does its fault, heals it, and says what proves that it bit, or None when nothing does."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable

from faults.disk import SmallDisk
from faults.load import Load
from faults.moments import (
    MOMENT_SECONDS,
    Beginning,
    Done,
    backend_ports,
    holding,
    in_transaction,
    killed_all,
    restart,
    risen,
    under_way,
)
from faults.servers import LEASE_SECONDS, TX_TIMEOUT_MS
from faults.world import World

Fault = Callable[[World, Load, random.Random], Awaitable[Done]]


async def no_fault(world: World, load: Load, rng: random.Random) -> Done:
    """Do nothing, as the reference for the others."""
    done = Beginning(load)
    await asyncio.sleep(1.0)
    return done.proved("nothing was done")


async def worker_kill(world: World, load: Load, rng: random.Random) -> Done:
    """Kill -9 a worker that holds leases."""
    worker, held = await holding(world, rng)
    done = Beginning(load, held)
    code = await worker.kill()
    rose = await risen(world, held, LEASE_SECONDS + MOMENT_SECONDS)
    worker.start()
    await worker.ready()
    bit = code == -signal.SIGKILL and rose
    return done.proved(f"{worker.name} ended with {code}, {rose} of {len(held)} runs were taken over" if bit else None)


async def outbox_kill(world: World, load: Load, rng: random.Random) -> Done:
    """Kill -9 an outbox, sometimes both."""
    killed = rng.sample(world.of("outbox"), rng.choice((1, 2)))
    done = Beginning(load)
    codes = [await server.kill() for server in killed]
    await asyncio.sleep(rng.uniform(0.2, 1.0))
    await restart(killed)
    return done.proved(killed_all(killed, codes))


async def api_kill(world: World, load: Load, rng: random.Random) -> Done:
    """Kill -9 an API that clients are connected to."""
    api = rng.choice(world.of("api"))
    affected = [reader for reader in load.readers if reader.server == api.url and under_way(reader)]
    done = Beginning(load, affected=affected)
    code = await api.kill()
    await asyncio.sleep(rng.uniform(0.3, 1.5))
    await restart([api])
    bit = code == -signal.SIGKILL and affected
    return done.proved(f"{api.name} ended with {code}, cutting off {len(affected)} clients" if bit else None)


async def worker_freeze(world: World, load: Load, rng: random.Random) -> Done:
    """SIGSTOP a worker until its leases have been taken over, then let it go on."""
    worker, held = await holding(world, rng)
    done = Beginning(load, held)
    worker.freeze()
    try:
        rose = await risen(world, held, LEASE_SECONDS + MOMENT_SECONDS)
        await asyncio.sleep(rng.uniform(0.0, 1.0))
    finally:
        worker.thaw()
    return done.proved(f"{worker.name} was frozen, {rose} of {len(held)} runs were taken over" if rose else None)


async def outbox_freeze(world: World, load: Load, rng: random.Random) -> Done:
    """SIGSTOP an outbox in the middle of a transaction, until Postgres has cut its session."""
    deadline = time.monotonic() + MOMENT_SECONDS
    while time.monotonic() < deadline:
        outbox = rng.choice(world.of("outbox"))
        done = Beginning(load)
        outbox.freeze()
        try:
            await asyncio.sleep(0.05)
            frozen = await in_transaction(world, outbox)
            if not frozen:
                continue
            await asyncio.sleep(TX_TIMEOUT_MS / 1000 + 0.5)
            left = await in_transaction(world, outbox)
            cut = len(set(frozen) - set(left))
            proof = f"{outbox.name} was frozen in {len(frozen)} transactions, Postgres cut {cut}" if cut else None
        finally:
            outbox.thaw()
            await asyncio.sleep(rng.uniform(0.01, 0.1))
        return done.proved(proof or None)
    return Beginning(load).proved(None)


async def postgres_crash(world: World, load: Load, rng: random.Random) -> Done:
    """Stop Postgres immediately and start it again."""
    cluster, before = world.cluster, world.cluster.pid
    recoveries = cluster.logged("was not properly shut down")
    done = Beginning(load)
    await cluster.crash()
    await asyncio.sleep(rng.uniform(0.0, 2.0))
    await cluster.start()
    recovered = cluster.logged("was not properly shut down") - recoveries
    bit = cluster.pid != before and recovered
    return done.proved(f"postmaster {before} became {cluster.pid} and recovered from its log" if bit else None)


async def connections_cut(world: World, load: Load, rng: random.Random) -> Done:
    """Cut every connection of some processes to Postgres, by a reset or an ordinary end, a few times."""
    links = rng.sample(world.links, rng.randint(2, len(world.links)))
    done = Beginning(load)
    cut = 0
    for _ in range(rng.randint(1, 5)):
        cut += sum(link.cut(reset=rng.random() < 0.5) for link in links)
        await asyncio.sleep(rng.uniform(0.05, 0.5))
    return done.proved(f"{cut} connections of {len(links)} processes were cut" if cut else None)


async def connections_stalled(world: World, load: Load, rng: random.Random) -> Done:
    """Let nothing through between some processes and Postgres for a while, then everything; or cut instead."""
    links = rng.sample(world.links, rng.randint(2, len(world.links)))
    done = Beginning(load)
    for link in links:
        link.stall()
    await asyncio.sleep(rng.uniform(1.0, LEASE_SECONDS + 1.0))
    held = sum(link.bytes_held for link in links)
    for link in links:
        if rng.random() < 0.5:
            link.cut(reset=False)
        link.resume()
    return done.proved(f"{held} bytes of {len(links)} processes were held" if held else None)


async def connections_half_closed(world: World, load: Load, rng: random.Random) -> Done:
    """End one direction of every connection of some processes, and drop the other without a word."""
    links = rng.sample(world.links, rng.randint(2, len(world.links)))
    before = {port for link in links for port in link.backend_ports}
    done = Beginning(load)
    halved = sum(link.half_close(rng) for link in links)
    await asyncio.sleep(1.0)
    gone = len(before - set(await backend_ports(world)))
    return done.proved(f"{halved} connections were half-closed, {gone} backends ended" if gone else None)


async def backends_terminated(world: World, load: Load, rng: random.Random) -> Done:
    """End random backends with ``pg_terminate_backend``, a few times."""
    done = Beginning(load)
    ended = 0
    for _ in range(rng.randint(2, 5)):
        rows = await world.table.rows(
            "select pid from pg_stat_activity where application_name = 'tailrace' order by pid"
        )
        pids = [row["pid"] for row in rows]
        chosen = rng.sample(pids, (len(pids) + 1) // 2)
        ended += await world.table.value(
            "select count(*) filter (where pg_terminate_backend(pid)) from unnest($1::integer[]) as pid", chosen
        )
        await asyncio.sleep(rng.uniform(0.1, 0.6))
    return done.proved(f"{ended} backends were ended" if ended else None)


async def reconnect_storm(world: World, load: Load, rng: random.Random) -> Done:
    """Let most clients drop their connections and come back, again and again."""
    done = Beginning(load)
    dropped = 0
    before = sum(reader.connections for reader in load.readers)
    for _ in range(rng.randint(10, 20)):
        dropped += sum(reader.drop() for reader in load.readers if rng.random() < 0.7)
        await asyncio.sleep(rng.uniform(0.02, 0.3))
    came = sum(reader.connections for reader in load.readers) - before
    return done.proved(f"{dropped} connections were dropped, clients came back {came} times" if dropped else None)


async def disk_full(world: World, load: Load, rng: random.Random) -> Done:
    """Let the disk with the tables be full for a while."""
    assert isinstance(world.disk, SmallDisk)
    before = world.cluster.logged("No space left on device")
    done = Beginning(load)
    world.disk.fill()
    try:
        await asyncio.sleep(rng.uniform(2.0, 4.0))
        said = world.cluster.logged("No space left on device") - before
    finally:
        world.disk.empty()
    return done.proved(f"Postgres said {said} times that no space is left" if said else None)


async def bus_outage(world: World, load: Load, rng: random.Random) -> Done:
    """Stop the bus's server for a while."""
    assert world.bus.stop is not None
    assert world.bus.start is not None
    done = Beginning(load)
    proof = await world.bus.stop()
    await asyncio.sleep(rng.uniform(1.0, 4.0))
    await world.bus.start()
    return done.proved(proof or None)


CLASSES: dict[str, Fault] = {
    "worker-kill": worker_kill,
    "outbox-kill": outbox_kill,
    "api-kill": api_kill,
    "worker-freeze": worker_freeze,
    "outbox-freeze": outbox_freeze,
    "postgres-crash": postgres_crash,
    "connections-cut": connections_cut,
    "connections-stalled": connections_stalled,
    "connections-half-closed": connections_half_closed,
    "backends-terminated": backends_terminated,
    "reconnect-storm": reconnect_storm,
    "disk-full": disk_full,
    "bus-outage": bus_outage,
}


def skipped(world: World) -> dict[str, str]:
    """Return the classes that cannot be done here, each with the reason."""
    found = {}
    if not isinstance(world.disk, SmallDisk):
        found["disk-full"] = world.disk
    if world.bus.stop is None:
        found["bus-outage"] = f"the bus {world.bus.url} is Postgres itself"
    return found
