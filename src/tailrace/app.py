"""``tailrace.App``: what a user writes agents for and mounts."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import Any, TypeVar, overload

from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace import __version__
from tailrace.errors import NotStarted, UsageError
from tailrace.http.api import build_api
from tailrace.http.direct import DirectFirst
from tailrace.http.gate import Gate
from tailrace.http.services import Services
from tailrace.model.draft import check_name
from tailrace.model.run import AGENT_NAME_MAX, CANARY_AGENT_PREFIX
from tailrace.runtime import ROLES, Role, run_roles
from tailrace.settings import Settings, load_settings
from tailrace.worker.execution import Agent

AgentT = TypeVar("AgentT", bound=Agent)


class App:
    """A set of agents, and everything that runs them.

    ::

        app = tailrace.App()

        @app.agent("digest")
        async def digest(run: tailrace.Run) -> None: ...

    Run it by ``tailrace serve --app FILE_OR_MODULE``, or mount it in a FastAPI or Starlette application, whose
    lifespan starts and stops it::

        api = FastAPI(lifespan=app.lifespan)
        api.mount("/tailrace", app.asgi())

    :param settings: instead of those that the environment gives; they are read when the App starts, not before.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._agents: dict[str, Agent] = {}
        self._services: Services | None = None

    @property
    def agents(self) -> Mapping[str, Agent]:
        """The agents by name."""
        return MappingProxyType(self._agents)

    @overload
    def agent(self, name: AgentT) -> AgentT: ...

    @overload
    def agent(self, name: str | None = None) -> Callable[[AgentT], AgentT]: ...

    def agent(self, name: Any = None) -> Any:
        """Register the decorated coroutine function as an agent; its name defaults to the function's.

        What the agent returns, any JSON value, becomes the run's ``output``.

        :raises UsageError: the name is taken or not acceptable, or the function is not a coroutine function.
        """
        if callable(name):
            return self._register(name, None)

        def decorate(function: AgentT) -> AgentT:
            return self._register(function, name)

        return decorate

    def lifespan(self, _app: object = None) -> AbstractAsyncContextManager[None]:
        """Run the App, with all roles, inside the block.

        It takes the application that a framework passes, so it can be given as a lifespan itself; a host that has a
        lifespan of its own writes ``async with app.lifespan():`` around its ``yield``.

        :raises SettingsError: a setting is unknown or not allowed.
        :raises SchemaMismatch: the database that the user named is behind or ahead; the embedded one is upgraded.
        :raises Unavailable: the database is away.
        """
        return self.running(ROLES)

    @asynccontextmanager
    async def running(self, roles: Collection[Role] = ROLES) -> AsyncIterator[None]:
        """Run some roles of the App inside the block; ``lifespan`` runs all."""
        if self._services is not None:
            raise UsageError("this App runs already; one process starts it once")
        settings = self.settings()
        async with run_roles(settings, self._agents, roles) as services:
            self._services = services
            try:
                yield
            finally:
                self._services = None

    def asgi(self, *, roles: Collection[Role] = ROLES) -> ASGIApp:
        """Return the HTTP API as an ASGI application, to be mounted, or to be served by itself.

        Served by itself it starts and stops the App through ASGI's lifespan; mounted, the host's lifespan must.

        It asks for keys where ``TAILRACE_API_KEYS_FILE`` names them.  Without, whoever reaches it may do everything,
        and unlike ``tailrace serve`` it does not check the ``Host``: which names and users it serves is for the
        application it is mounted in to say.  It does refuse what a browser sends for another site's page.
        """
        api = build_api(self.services, version=__version__, with_runs="api" in roles)
        api.router.lifespan_context = lambda _app: self.running(roles)
        gate = Gate(DirectFirst(api, self.services) if "api" in roles else api, self.services)

        async def tailrace_asgi(scope: Scope, receive: Receive, send: Send) -> None:
            await gate(scope, receive, send)

        return tailrace_asgi

    def settings(self) -> Settings:
        """Return the settings it was given, or those of the environment; raise ``SettingsError`` as ``lifespan``."""
        return self._settings or load_settings()

    def services(self) -> Services:
        """Return the running parts, or raise ``NotStarted``."""
        if self._services is None:
            raise NotStarted(
                "Tailrace is not started: give its lifespan to the application it is mounted in, as in "
                "FastAPI(lifespan=app.lifespan)"
            )
        return self._services

    def _register(self, function: AgentT, name: str | None) -> AgentT:
        self._agents[self._checked_name(function, name)] = function
        return function

    def _checked_name(self, function: object, name: str | None) -> str:
        name = name if name is not None else getattr(function, "__name__", "")
        if not isinstance(name, str) or len(name) > AGENT_NAME_MAX:
            raise UsageError(f"an agent's name is a string of 1 to {AGENT_NAME_MAX} characters, found {name!r:.200}")
        check_name(name, "agent")
        if name.startswith(CANARY_AGENT_PREFIX):
            raise UsageError(f"agents named {CANARY_AGENT_PREFIX}… are the doctor's; choose another name for {name!r}")
        if not inspect.iscoroutinefunction(function):
            raise UsageError(f"the agent {name!r} must be an `async def`; call plain functions through `run.step`")
        if name in self._agents:
            raise UsageError(f"two agents are named {name!r}; name one of them otherwise: @app.agent('…')")
        return name
