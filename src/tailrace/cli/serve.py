"""``tailrace serve``: run an App's roles in this process, or in several, until asked to stop."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import socket
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from tailrace.app import App
from tailrace.cli.loading import load_app
from tailrace.cli.numbers import whole
from tailrace.cli.output import run
from tailrace.cli.processes import PROCESSES_MAX, Inherited, Processes
from tailrace.errors import TailraceError, UsageError
from tailrace.exporters.logs import LibraryHandler
from tailrace.http.connection import Limits
from tailrace.http.loopback import LoopbackHostOnly
from tailrace.http.server import allow_connections, serving
from tailrace.http.services import Services
from tailrace.http.siblings import Siblings
from tailrace.runtime import ROLES, Role
from tailrace.settings import Settings, describe_settings
from tailrace.telemetry import ProcessReady
from tailrace.worker.signals import on_stop

# Objects that may be made before the young ones are looked through; Python's own 700 is a few events.
GC_YOUNG_OBJECTS = 10_000
EPILOG = "Settings, from the environment or a .env file:\n\n" + "\n\n".join(
    f"{name}{f' [{default}]' if default else ''}: {meaning.replace('`', '')}"
    for name, default, meaning in describe_settings()
)
RoleOption = Literal["all", "api", "worker", "outbox"]


def serve(
    app: Annotated[
        str | None,
        typer.Option(
            "--app", metavar="FILE_OR_MODULE[:NAME]", help="Where the agents are; NAME is `app` when left out."
        ),
    ] = None,
    role: Annotated[
        RoleOption, typer.Option("--role", metavar="ROLE", help="What this process does: all, api, worker or outbox.")
    ] = "all",
    host: Annotated[
        str,
        typer.Option("--host", metavar="HOST", help="Address to listen on; other than loopback only with API keys."),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", parser=whole(0, 65535), metavar="PORT", help="Port to listen on; 0 for any free one."),
    ] = 8400,
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            parser=whole(1, PROCESSES_MAX),
            metavar="N",
            help="How many processes share the port, each with all that one has; one a core is enough.",
        ),
    ] = 1,
    child_of: Annotated[str | None, typer.Option("--child-of", hidden=True)] = None,
) -> None:
    """Serve the API, execute runs and publish their events, until stopped.

    A process does all three, or with --role one of them. Without --app there are no agents: runs can be read and
    watched, and started for agents of other processes.
    """
    loaded = load_app(app) if app is not None else App()
    has_keys = loaded.settings().api_keys_file is not None
    if not has_keys:
        _require_loopback(host)
    roles: tuple[Role, ...] = ROLES if role == "all" else (role,)
    logging.basicConfig(handlers=[LibraryHandler()], level=logging.WARNING)
    inherited = Inherited.of_text(child_of) if child_of is not None else None
    if processes == 1 or inherited is not None:
        run(_serve(loaded, roles, host, port, inherited, has_keys=has_keys))
        return
    if loaded.settings().bus_url.get_secret_value() == "memory://":
        raise UsageError("--processes: TAILRACE_BUS_URL=memory:// serves one process alone; use postgres://")
    options = ["--role", role, "--host", host, "--port", str(port), *(["--app", app] if app is not None else [])]
    raise typer.Exit(run(_serve_all(options, roles, host, port, processes)))


async def _serve_all(options: Sequence[str], roles: tuple[Role, ...], host: str, port: int, count: int) -> int:
    with _listen(host, port) as listening:
        text = f"Tailrace serves {', '.join(roles)} at {_address(listening)} in {count} processes"
        return await Processes(["serve", *options], listening, count).run(lambda: typer.echo(text))


async def _serve(
    app: App, roles: tuple[Role, ...], host: str, port: int, inherited: Inherited | None, *, has_keys: bool
) -> None:
    stop = asyncio.Event()
    listening = socket.socket(fileno=inherited.listening) if inherited is not None else _listen(host, port)
    with on_stop(lambda _: stop.set(), is_last=True), listening:
        asgi = app.asgi(roles=roles)
        async with app.running(roles):
            telemetry = app.services().telemetry
            limits = _limits(app.services().settings)
            allow_connections(limits)
            served = asgi if has_keys else LoopbackHostOnly(asgi, telemetry)
            async with serving(served, listening, limits, telemetry):
                _collect_less()
                address = _address(listening)
                telemetry.tell(ProcessReady(roles, address))
                if inherited is None:
                    typer.echo(f"Tailrace serves {', '.join(roles)} at {address}")
                    await stop.wait()
                else:
                    await _until_stopped(app.services(), inherited, stop)


async def _until_stopped(services: Services, inherited: Inherited, stop: asyncio.Event) -> None:
    """Serve as one of several processes."""
    services.siblings = Siblings(inherited.folder, inherited.name)
    async with services.siblings.answering(services.metrics.render):
        inherited.stop_without_parent()
        inherited.ready()
        await stop.wait()


def _collect_less() -> None:
    """Spare the garbage collector what lives as long as the process: modules, routes, models, the agents' code.

    A full collection of a fresh server's 80,000 objects stops every run and every stream for 25 to 45 ms, every second
    or two under load; of what 100 runs add to them it takes 3 to 10 (measured). And let it look through the young
    objects less often: with whole runs over HTTP that was a fifth of the server's CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG_OBJECTS, 10, 10)


def _limits(settings: Settings) -> Limits:
    return Limits(
        connections_max=settings.max_connections,
        request_seconds=settings.request_seconds,
        write_seconds=settings.write_seconds,
    )


def _require_loopback(host: str) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise UsageError(
            f"--host {host}: without credentials Tailrace listens on loopback alone (127.0.0.1, ::1 or localhost), for "
            "anybody who reached it could start and read every run; make keys with `tailrace keys create` and set "
            "TAILRACE_API_KEYS_FILE"
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise CannotListen(f"could not listen on {host}:{port}: {error.strerror}. Choose another --port") from error
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class CannotListen(TailraceError):
    """The address is taken or not this machine's."""
