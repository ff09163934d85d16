"""The credentials of a running process: who a key or a token stands for, as the keys file says just now.

The file is looked at again when something is asked and the last look is ``LOOK_SECONDS`` old, so a revocation takes
effect within that time and costs one ``stat``.  A file that has become unreadable or broken changes nothing: what it
said last holds, and the log says so once.  Locking everybody out because of a typing error would be an outage; going
on with the keys of a minute ago is what was meant until then.
"""

from __future__ import annotations

import base64
import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tailrace.access import keyfile, keys, tokens
from tailrace.access.keyfile import ApiKey, KeyFile
from tailrace.access.principal import EVERYBODY, Principal, Scope
from tailrace.errors import NotAuthenticated, SettingsError
from tailrace.model.run import DEFAULT_TENANT
from tailrace.telemetry import KeysFileBroken, KeysFileRead, Telemetry

LOOK_SECONDS = 0.5
# Clocks of the processes that share a file may differ by this much.
SKEW_SECONDS = 5
_REFUSED = "the key is not known, or was revoked"
_TOKEN_REFUSED = "the token does not open this stream, or no longer: ask for another"  # noqa: S105 - a sentence

# A file is another when one of these differs: inode, size, and both times in nanoseconds.
_Mark = tuple[int, int, int, int]


class Credentials:
    """Where no keys file is configured: everybody may do everything, as ``principal``."""

    configured = False

    def __init__(self, *, token_seconds: float, resume_seconds: float, principal: Principal = EVERYBODY) -> None:
        self._token_seconds = token_seconds
        self._resume_seconds = resume_seconds
        self._principal = principal
        self._own_secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")

    def of_key(self, key: str | None) -> Principal:
        """Return whom a key stands for.

        :param key: None when none was sent.
        :raises NotAuthenticated: one is needed, and this is none that counts.
        """
        del key
        return self._principal

    def of_token(self, token: str, run_id: str, *, resuming: bool) -> Principal:
        """Return whom a stream token stands for.

        :param run_id: of the stream that is asked for.
        :param resuming: the client has been let in before, and says how far it has come.
        :raises NotAuthenticated: the token is not for this stream, or it is too old.
        """
        del token, run_id, resuming
        return self._principal

    def issue_token(self, principal: Principal, run_id: str) -> tuple[str, datetime]:
        """Return a token for a run's stream, and until when it opens it."""
        issued_at = round(time.time(), 3)
        key_id, secret = self._signing()
        claims = tokens.StreamClaims(run_id, principal.tenant or DEFAULT_TENANT, principal.key_id, issued_at)
        expires_at = datetime.fromtimestamp(issued_at, UTC) + timedelta(seconds=self._token_seconds)
        return tokens.sign(claims, key_id, secret), expires_at

    def still_holds(self, principal: Principal) -> bool:
        """Whether the key of this principal still counts."""
        del principal
        return True

    def _signing(self) -> tuple[str, str]:
        return "none", self._own_secret


class FileCredentials(Credentials):
    """Those of a keys file.

    :param clock: gives monotonic seconds.
    :raises SettingsError: there is no such file, or it is broken.
    """

    configured = True

    def __init__(
        self,
        path: Path,
        telemetry: Telemetry,
        *,
        token_seconds: float,
        resume_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(token_seconds=token_seconds, resume_seconds=resume_seconds)
        self._path = path
        self._telemetry = telemetry
        self._clock = clock
        self._look_at = clock() + LOOK_SECONDS
        self._mark: _Mark | None = _mark(path)
        self._trouble: str | None = None
        self._use(keyfile.read(path))

    def of_key(self, key: str | None) -> Principal:
        """Return whom a key stands for; see ``Credentials``."""
        self._look()
        if key is None:
            raise NotAuthenticated("a key is needed: send it as `Authorization: Bearer …`")
        found = self._keys.get(keys.id_of(key) or "")
        # Compared first, whatever is known about it, so that all refusals cost the same.
        if not keys.matches(key, found.sha256 if found else None) or found is None or found.revoked_at is not None:
            raise NotAuthenticated(_REFUSED)
        return _principal(found)

    def of_token(self, token: str, run_id: str, *, resuming: bool) -> Principal:
        """Return whom a stream token stands for; see ``Credentials``."""
        self._look()
        counting = datetime.now(UTC) - timedelta(seconds=self._resume_seconds)
        claims = tokens.verify(
            token,
            [
                (entry.id, entry.secret)
                for entry in self._file.signing
                # Past this every token that was signed with it is too old.
                if entry.retired_at is None or entry.retired_at > counting
            ],
        )
        bound = max(self._resume_seconds, self._token_seconds) if resuming else self._token_seconds
        if claims is None or claims.run_id != run_id or not -SKEW_SECONDS <= time.time() - claims.issued_at <= bound:
            raise NotAuthenticated(_TOKEN_REFUSED)
        key = self._keys.get(claims.key_id or "")
        if key is None or key.revoked_at is not None or key.tenant != claims.tenant:
            raise NotAuthenticated(_TOKEN_REFUSED)
        if not _principal(key).may(Scope.RUNS_READ):
            raise NotAuthenticated(_TOKEN_REFUSED)
        return Principal(key.tenant, frozenset({Scope.RUNS_READ}), key.id)

    def still_holds(self, principal: Principal) -> bool:
        """Whether the key of this principal still counts."""
        self._look()
        key = self._keys.get(principal.key_id or "")
        return key is not None and key.revoked_at is None

    def _signing(self) -> tuple[str, str]:
        self._look()
        newest = self._file.signing[0]
        return newest.id, newest.secret

    def _look(self) -> None:
        """Read the file anew if it is another than before."""
        if (now := self._clock()) < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        try:
            # Before it is read: a change in between is seen at the next look.
            mark = _mark(self._path)
            if mark is not None and mark == self._mark:
                self._trouble = None
                return
            read = keyfile.read(self._path)
        except SettingsError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._telemetry.tell(KeysFileBroken(str(error)))
            return
        self._mark, self._trouble = mark, None
        self._use(read)

    def _use(self, file: KeyFile) -> None:
        self._file = file
        self._keys = {key.id: key for key in file.keys}
        active = sum(key.revoked_at is None for key in file.keys)
        self._telemetry.tell(KeysFileRead(str(self._path), active))


def _principal(key: ApiKey) -> Principal:
    return Principal(key.tenant, frozenset(key.scopes), key.id)


def _mark(path: Path) -> _Mark | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - the same, and cheaper
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
