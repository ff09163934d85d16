"""The keys file: JSON with the keys' hashes and the signing keys of the stream tokens.

Whoever can write it lets anybody in, and whoever can read it can sign stream tokens, so it is made with mode 0600.  A
change takes a lock beside it, writes a whole new file and renames it over the old one: readers, in this process or
another, see the one or the other, and changes at the same moment follow each other.
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from tailrace.access.principal import Scope
from tailrace.errors import SettingsError
from tailrace.model.run import TENANT_PATTERN

if sys.platform != "win32":
    import fcntl

T = TypeVar("T")
MODE = 0o600
# Ten thousand keys are 3 MB; a larger file is some other file.
FILE_MAX_BYTES = 16 * 2**20
_HOW = "`tailrace keys create --name NAME` makes one"


class _Entry(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, hide_input_in_errors=True
    )


class ApiKey(_Entry):
    """A key as the file keeps it."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]
    tenant: Annotated[str, Field(pattern=TENANT_PATTERN)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    created_at: AwareDatetime
    revoked_at: AwareDatetime | None = None


class SigningKey(_Entry):
    """What stream tokens are signed with; ``retired_at`` is when a newer one took over."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    secret: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$", repr=False)]
    created_at: AwareDatetime
    retired_at: AwareDatetime | None = None


class KeyFile(_Entry):
    """The whole file; the newest signing key is the first."""

    version: Literal[1] = 1
    keys: tuple[ApiKey, ...] = ()
    signing: Annotated[tuple[SigningKey, ...], Field(min_length=1)]


def now() -> datetime:
    """Return the time, in whole seconds: it is read by people."""
    return datetime.now(UTC).replace(microsecond=0)


def new_signing_key() -> SigningKey:
    """Return a signing key of 256 random bits."""
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    return SigningKey(id=secrets.token_hex(6), secret=secret, created_at=now())


def parse(text: bytes, path: Path) -> KeyFile:
    """Return the file's content, or raise ``SettingsError`` that names the wrong place and never what stands there."""
    try:
        found = KeyFile.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = "/".join(str(part) for part in fault["loc"])
        raise SettingsError(
            f"the keys file {path} is not one: {f'{place}: ' if place else ''}{fault['msg']}; {_HOW}"
        ) from None
    ids = [*(key.id for key in found.keys), *(key.id for key in found.signing)]
    if len(set(ids)) < len(ids):
        raise SettingsError(f"the keys file {path} has an id twice; remove one of the two")
    return found


def read(path: Path) -> KeyFile:
    """Return the content of the keys file.

    :raises SettingsError: there is none, it cannot be read, or it is broken.
    """
    try:
        with path.open("rb") as file:
            text = file.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError(f"there is no keys file {path}, which TAILRACE_API_KEYS_FILE names; {_HOW}") from None
    except OSError as error:
        raise SettingsError(f"the keys file {path} cannot be read: {error.strerror}") from error
    if len(text) > FILE_MAX_BYTES:
        raise SettingsError(f"the keys file {path} has more than {FILE_MAX_BYTES} bytes; is it another file?")
    return parse(text, path)


def change(path: Path, changed: Callable[[KeyFile], tuple[KeyFile, T]], *, create: bool = False) -> T:
    """Replace the file's content by what ``changed`` makes of it, and return what that returns beside.

    :param create: make the file, with a signing key, if there is none.
    :raises SettingsError: the file is broken, or cannot be read or written; it is left as it was.
    """
    path = Path(os.path.realpath(path))  # The file, not a link to it, is replaced.
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
    except OSError as error:
        raise SettingsError(f"the keys file {path} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = KeyFile(signing=(new_signing_key(),)) if create and not path.exists() else read(path)
        replaced, answer = changed(found)
        if replaced != found:
            _replace(path, replaced)
    except OSError as error:
        raise SettingsError(f"the keys file {path} cannot be written: {error.strerror}") from error
    finally:
        os.close(lock)
    return answer


def _replace(path: Path, content: KeyFile) -> None:
    # mkstemp makes it 0600.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.model_dump_json(by_alias=True, indent=2).encode() + b"\n")
            file.flush()
            _keep_owner(path, file.fileno())
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise


def _keep_owner(path: Path, descriptor: int) -> None:
    """Give the new file the owner and the mode of the old one: the server reads it, perhaps as somebody else."""
    with suppress(FileNotFoundError):
        old = path.stat()
        if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fchmod(descriptor, old.st_mode & 0o777)
