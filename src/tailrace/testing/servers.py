"""Which Postgres the tests use: the one that is named, else one in Docker, else the embedded one."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import platformdirs

from tailrace import local
from tailrace.errors import LocalPostgresError

VARIABLE = "TEST_DATABASE_URL"
DOCKER_SOCKET = Path("/var/run/docker.sock")
IMAGE = "postgres:18"
ADVICE = (
    f"Set {VARIABLE}=postgresql://… to a server on which databases may be created, or skip these tests with "
    "--tailrace-skip-database"
)


class NoPostgres(Exception):
    """No Postgres can be had; the text says what to do."""


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the URL of a server on which databases can be created; raise ``NoPostgres`` if there is none."""
    if url := os.environ.get(VARIABLE):
        yield url
    elif _docker_answers():
        yield from _in_docker()
    else:
        yield from _embedded()


def with_database(url: str, database: str) -> str:
    """Return ``url`` with another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def no_database_made(error: Exception) -> NoPostgres:
    """Return what to say where the server that was found makes no database for the tests."""
    where = f"the server that {VARIABLE} names" if os.environ.get(VARIABLE) else "the Postgres that was found"
    return NoPostgres(f"the tests need a database of their own, and {where} makes none: {error}\n{ADVICE}")


def _docker_answers() -> bool:
    if importlib.util.find_spec("testcontainers") is None or not (
        DOCKER_SOCKET.exists() or os.environ.get("DOCKER_HOST")
    ):
        return False
    import docker  # noqa: PLC0415 - comes with testcontainers, which is optional

    try:
        return bool(docker.from_env(timeout=2).ping())
    except docker.errors.DockerException:
        return False


def _in_docker() -> Iterator[str]:
    from testcontainers.postgres import PostgresContainer  # noqa: PLC0415 - optional

    with PostgresContainer(IMAGE, driver=None) as container:
        yield container.get_connection_url()


def _embedded() -> Iterator[str]:
    try:
        server = local.start(Path(platformdirs.user_cache_dir("tailrace")) / "testing")
    except LocalPostgresError as error:
        raise NoPostgres(
            f"the tests need a Postgres and found none: {VARIABLE} is not set, no Docker daemon answers, and the "
            f"embedded one says: {error}\n{ADVICE}"
        ) from error
    with server:
        yield server.url
