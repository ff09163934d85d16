"""``python -m faults``: run a campaign.

Exit 0: every promise was kept, and every class that the time allowed was proved to bite.  1: a promise was broken, or a
class had every chance and could not be shown to bite.  2: wrong options.  3: the campaign itself failed, which says
nothing about Tailrace.  130: interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from faults.builds import BUILDS
from faults.buses import BUSES
from faults.campaign import Campaign
from faults.classes import CLASSES
from faults.report import show, summary, write
from faults.world import opened

EXIT_BROKEN, EXIT_FAILED, EXIT_INTERRUPTED = 1, 3, 130


def main() -> int:
    """Run a campaign and return the exit code."""
    options = _options()
    try:
        # Not on uvloop: there a connection that is lost as it is made ends in an AttributeError of the HTTP library.
        return asyncio.run(_run(options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted; every process that was started has been ended", flush=True)
        return EXIT_INTERRUPTED
    except Exception:  # noqa: BLE001 - whatever it is, it must not pass for a broken promise
        traceback.print_exc()
        print("the campaign itself failed; this says nothing about the promises", flush=True)
        return EXIT_FAILED


async def _run(options: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    # Asked to end, it ends what it has started; Ctrl-C does the same.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    print(f"seed {options.seed}, bus {options.bus}; starting Postgres and seven servers", flush=True)
    began = time.monotonic()
    async with opened(options.bus, options.bad_build) as world:
        campaign = Campaign(world, random.Random(options.seed), options.only or list(CLASSES))
        try:
            await campaign.perform(options.minutes * 60, until_violation=options.expect_violation)
        finally:
            seconds = time.monotonic() - began
            found = summary(campaign, seed=options.seed, bus=options.bus, seconds=seconds, bad_build=options.bad_build)
            write(found, options.json)
            show(found)
            if any(each.violations for each in campaign.rounds):
                world.keep_logs(options.json.with_name("faults-logs"))
                print(f"the logs of all processes are in {options.json.with_name('faults-logs')}")
    broken = sum(len(each.violations) for each in campaign.rounds)
    if options.expect_violation:
        print(f"{broken} violations, as {options.bad_build} must cause" if broken else "no violation was found")
        return 0 if broken else EXIT_BROKEN
    return EXIT_BROKEN if broken or campaign.schedule.unproved else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description="A seeded fault campaign on real processes.")
    parser.add_argument("--seed", type=int, default=None, help="chooses faults, moments and victims (default: random)")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long; a grace follows for what is unproved")
    parser.add_argument("--only", action="append", choices=CLASSES, help="this class alone; may be repeated")
    parser.add_argument("--bus", choices=BUSES, help="the bus between the processes (default: by the seed)")
    parser.add_argument("--bad-build", choices=BUILDS, help="run the servers with a known mistake")
    parser.add_argument("--expect-violation", action="store_true", help="exit 0 once a violation was found, else 1")
    parser.add_argument("--json", type=Path, default=Path("build/faults.json"), help="where the figures go")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(2**32)
    if options.bus is None:
        # Apart from the campaign's own choices, which stay the same whoever names the bus.
        options.bus = random.Random(options.seed).choice(sorted(BUSES))
    return options


if __name__ == "__main__":
    sys.exit(main())
