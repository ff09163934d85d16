"""What a measurement says of where it was made."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import asyncpg

# Those that stand on the measured way; the peers' are added by who measures them.
PACKAGES = ("tailrace", "asyncpg", "uvloop", "uvicorn", "httptools", "orjson")


def machine() -> dict[str, str]:
    """Return the processor, its cores, the system and how busy it is already."""
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load before": load,
    }


async def versions(url: str) -> dict[str, str]:
    """Return the versions of Postgres, with what it does at a commit, and of the packages on the way."""
    connection = await asyncpg.connect(url)
    try:
        postgres = await connection.fetchval("show server_version")
        durable = [f"{name} {await connection.fetchval(f'show {name}')}" for name in ("fsync", "synchronous_commit")]
    finally:
        await connection.close()
    return {"postgres": f"{postgres} ({', '.join(durable)})"} | {name: version_of(name) for name in PACKAGES}


def version_of(package: str) -> str:
    """Return the version of an installed package, or that it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((each.partition(":")[2].strip() for each in lines if each.startswith("model name")), platform.machine())
