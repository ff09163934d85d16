"""``tailrace keys``: the keys file.  A running server sees a change within a second."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from tailrace.access import keyfile
from tailrace.access.keyfile import ApiKey, KeyFile, SigningKey
from tailrace.access.keys import hash_of, new_key
from tailrace.access.principal import Scope
from tailrace.cli.output import Json, print_json, print_table
from tailrace.errors import NotFound, SettingsError, UsageError
from tailrace.model.run import DEFAULT_TENANT
from tailrace.settings import load_settings

# The signing keys that are kept beside the newest; tokens of older ones are long past.
RETIRED_MAX = 3
commands = typer.Typer(no_args_is_help=True)


class KeyNotFound(NotFound):
    """The keys file has no key with this id."""


@commands.command()
def create(
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Whose key it is, for the list.")],
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="TENANT", help="Whose runs it starts and sees.")
    ] = DEFAULT_TENANT,
    scopes: Annotated[
        str,
        typer.Option(
            "--scopes", metavar="SCOPES", help="What it allows, with commas between: runs:read, runs:write, admin."
        ),
    ] = f"{Scope.RUNS_READ},{Scope.RUNS_WRITE}",
    json: Json = False,
) -> None:
    """Make a key and print it: the one time it can be seen.

    Its hash goes into the file that TAILRACE_API_KEYS_FILE names, which is created when it is not there. The scope
    `admin` includes the others, within its tenant, and allows /metrics.
    """
    key_id, key = new_key()
    entry = _entry(key_id, key, name, tenant, scopes)

    def add(found: KeyFile) -> tuple[KeyFile, None]:
        return found.model_copy(update={"keys": (*found.keys, entry)}), None

    keyfile.change(_path(), add, create=True)
    if json:
        print_json({"id": key_id, "key": key, "name": name, "tenant": tenant, "scopes": list(entry.scopes)})
    else:
        typer.echo(key)


@commands.command("list")
def list_keys(json: Json = False) -> None:
    """List the keys: ids, names, tenants and scopes.

    The keys themselves cannot be shown, for the file has only their hashes.
    """
    found = keyfile.read(_path()).keys
    if json:
        print_json({"keys": [_view(key) for key in found]})
        return
    rows = [
        (key.id, key.name, key.tenant, ",".join(key.scopes), _time(key.created_at), _time(key.revoked_at) or "-")
        for key in found
    ]
    print_table(("id", "name", "tenant", "scopes", "created", "revoked"), rows, empty="no keys")


@commands.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as `tailrace keys list` shows it.")],
    json: Json = False,
) -> None:
    """Revoke a key.

    Servers refuse it within a second, and end the streams that were opened with it.
    """

    def end(found: KeyFile) -> tuple[KeyFile, ApiKey]:
        key = next((key for key in found.keys if key.id == key_id), None)
        if key is None:
            raise KeyNotFound(f"there is no key with the id {key_id!r:.100}; `tailrace keys list` shows the ids")
        revoked = key if key.revoked_at else key.model_copy(update={"revoked_at": keyfile.now()})
        return found.model_copy(update={"keys": tuple(revoked if of is key else of for of in found.keys)}), revoked

    revoked = keyfile.change(_path(), end)
    if json:
        print_json(_view(revoked))
    else:
        typer.echo(f"revoked {revoked.id} ({revoked.name}, tenant {revoked.tenant})")


@commands.command("rotate-signing")
def rotate_signing(
    drop: Annotated[
        bool, typer.Option("--drop-previous", help="Refuse the tokens that were given out, too, from now on.")
    ] = False,
    json: Json = False,
) -> None:
    """Sign stream tokens with a new key.

    Tokens that were signed with a previous one still count until they are too old.
    """
    new = keyfile.new_signing_key()

    def rotate(found: KeyFile) -> tuple[KeyFile, None]:
        retired = () if drop else tuple(_retired(key) for key in found.signing[:RETIRED_MAX])
        return found.model_copy(update={"signing": (new, *retired)}), None

    keyfile.change(_path(), rotate)
    if json:
        print_json({"id": new.id, "createdAt": _time(new.created_at)})
    else:
        typer.echo(f"stream tokens are signed with {new.id} from now on")


def _retired(key: SigningKey) -> SigningKey:
    return key if key.retired_at else key.model_copy(update={"retired_at": keyfile.now()})


def _path() -> Path:
    path = load_settings().api_keys_file
    if path is None:
        raise SettingsError("TAILRACE_API_KEYS_FILE is not set: set it to the file that holds, or shall hold, the keys")
    return path


def _entry(key_id: str, key: str, name: str, tenant: str, scopes: str) -> ApiKey:
    named = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    unknown = [scope for scope in named if scope not in set(Scope)]
    if unknown or not named:
        raise UsageError(f"--scopes {scopes!r:.100}: must be some of {', '.join(Scope)}, with commas between")
    try:
        return ApiKey(
            id=key_id,
            name=name,
            tenant=tenant,
            scopes=tuple(scope for scope in Scope if scope in named),
            sha256=hash_of(key),
            created_at=keyfile.now(),
        )
    except ValidationError as error:
        option = error.errors()[0]["loc"][0]
        allowed = {
            "name": "1 to 100 characters, none of them a control character",
            "tenant": "1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or a digit",
        }
        raise UsageError(f"--{option}: must be {allowed[str(option)]}") from None


def _view(key: ApiKey) -> dict[str, Any]:
    return key.model_dump(mode="json", by_alias=True, exclude={"sha256"})


def _time(moment: Any) -> str:
    return moment.isoformat().replace("+00:00", "Z") if moment else ""
