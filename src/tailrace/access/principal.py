"""Who asks: a tenant, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tailrace.model.run import DEFAULT_TENANT


class Scope(StrEnum):
    """What a key allows; ``admin`` includes the others, within the key's tenant, and allows ``/metrics``."""

    RUNS_READ = "runs:read"
    RUNS_WRITE = "runs:write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks; ``tenant`` None is an operator with the database itself, who sees the runs of all tenants.

    ``key_id`` is the id of the key that was shown, None where none is needed.
    """

    tenant: str | None
    scopes: frozenset[Scope]
    key_id: str | None = None

    def may(self, scope: Scope) -> bool:
        """Whether this is allowed."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


# Without credentials everybody who reaches the server may do everything: that is why it listens on loopback alone.
EVERYBODY = Principal(DEFAULT_TENANT, frozenset(Scope))
OPERATOR = Principal(None, frozenset(Scope))
