"""A server with a keys file, and keys of two tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx2
import pytest

from tailrace.access import keyfile
from tailrace.access.keyfile import ApiKey, KeyFile
from tailrace.access.keys import hash_of, new_key
from tailrace.access.principal import Scope
from tailrace.settings import Settings
from tests.patience import PATIENCE_SECONDS
from tests.read_support import Reading, reading

READ_WRITE = (Scope.RUNS_READ, Scope.RUNS_WRITE)


class Keys:
    """A keys file, changed as the command line changes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self, tenant: str, *scopes: Scope) -> str:
        key_id, key = new_key()
        entry = ApiKey(
            id=key_id,
            name=f"{tenant}'s",
            tenant=tenant,
            scopes=scopes or READ_WRITE,
            sha256=hash_of(key),
            created_at=keyfile.now(),
        )

        def add(found: KeyFile) -> tuple[KeyFile, None]:
            return found.model_copy(update={"keys": (*found.keys, entry)}), None

        keyfile.change(self.path, add, create=True)
        return key

    def revoke(self, key: str) -> None:
        key_id = key.split("_")[1]

        def end(found: KeyFile) -> tuple[KeyFile, None]:
            keys = [of.model_copy(update={"revoked_at": keyfile.now()}) if of.id == key_id else of for of in found.keys]
            return found.model_copy(update={"keys": tuple(keys)}), None

        keyfile.change(self.path, end)

    def client(self, server: Reading, key: str) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_SECONDS
        )


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Two tenants' keys will be in it; it exists from the first one on."""
    return Keys(tmp_path / "keys.json")


@pytest.fixture
def acme(keys: Keys) -> str:
    return keys.make("acme")


@pytest.fixture
def globex(keys: Keys) -> str:
    return keys.make("globex")


@pytest.fixture
async def server(settings: Callable[..., Settings], keys: Keys, acme: str, globex: str) -> AsyncIterator[Reading]:
    """An API that asks for keys and accepts runs for the agent of another process."""
    async with reading(settings(api_keys_file=keys.path, heartbeat_seconds=0.2)) as made:
        await made.services.leases.record_agents(["echo"])
        yield made
