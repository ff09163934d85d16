"""Every option, validated once at start.  Nothing else in Tailrace reads the environment.

Sources, the first that has a value wins: arguments, ``TAILRACE_…`` in the environment, ``.env`` in the working
folder.  A name that begins with ``TAILRACE_`` and is not listed here is refused, so that a misspelt setting is an
error at start instead of a default at three in the morning.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tailrace.addresses import require_bus, require_place
from tailrace.errors import SettingsError

PREFIX = "TAILRACE_"
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?\Z")
ENV_FILE = Path(".env")
# Variables that others name too, and what they stand for where ours is not set.
STANDARD = {"database_url": "DATABASE_URL", "otlp_endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT"}
# Their values are never repeated, in no error.
SECRETS = frozenset({"database_url", "bus_url", "api_key", "archive_url"})


class Settings(BaseSettings):
    """Options of one Tailrace process; every field is ``TAILRACE_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True, env_ignore_empty=True
    )

    database_url: Annotated[
        SecretStr | None,
        Field(description="`postgresql://…`; else `DATABASE_URL`; else the embedded Postgres in `TAILRACE_DATA_DIR`."),
    ] = None
    db_schema: Annotated[
        str,
        Field(pattern=r"^[a-z_][a-z0-9_]{0,49}$", description="Postgres schema that holds Tailrace's tables."),
    ] = "tailrace"
    data_dir: Annotated[
        Path | None, Field(description="Folder of the embedded Postgres; default: the user's data folder.")
    ] = None
    bus_url: Annotated[
        SecretStr,
        Field(
            description="`postgres://` (the Tailrace database itself), `memory://` (for one process alone), "
            "`redis://[user:password@]host[:port][/number]` or `nats://[user:password@]host[:port]`; with TLS "
            "`rediss://` or `tls://`."
        ),
    ] = SecretStr("postgres://")
    outbox_poll_ms: Annotated[
        int,
        Field(
            ge=10,
            le=60_000,
            description="How often the outbox looks for events whose wake-up was lost, in milliseconds.",
        ),
    ] = 200
    tx_timeout_ms: Annotated[
        int, Field(ge=100, le=600_000, description="Bound on a statement and on an idle transaction, in milliseconds.")
    ] = 5000
    heartbeat_seconds: Annotated[
        float,
        Field(gt=0, le=3600, description="Silence on a stream before a `: ping`, and between tail checks, in seconds."),
    ] = 15
    lease_seconds: Annotated[
        float,
        Field(ge=1, le=3600, description="How long a worker may be silent before its runs are taken over, in seconds."),
    ] = 30
    stall_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="A started run without a new event for this long counts as stalled, and a queued one whose "
            "agent no worker has served for this long is failed, in seconds.",
        ),
    ] = 600
    max_event_bytes: Annotated[
        int, Field(ge=256, le=16 * 2**20, description="Most that an event's `data` may take as UTF-8 JSON, in bytes.")
    ] = 65536
    max_body_bytes: Annotated[
        int, Field(ge=1024, le=64 * 2**20, description="Most that a request body may take, in bytes.")
    ] = 2**20
    max_streams: Annotated[int, Field(ge=1, le=1_000_000, description="Most streams that one process keeps open.")] = (
        10_000
    )
    stream_max_seconds: Annotated[
        float,
        Field(gt=0, le=86_400, description="Age at which a stream is ended for its client to resume, in seconds."),
    ] = 600
    api_keys_file: Annotated[
        Path | None,
        Field(
            description="File of the API keys, made by `tailrace keys create`; without it there are no credentials and "
            "`serve` listens on loopback alone."
        ),
    ] = None
    api_key: Annotated[
        SecretStr | None,
        Field(description="The key that `tailrace runs … --url` and `doctor --url` send; servers have no use for it."),
    ] = None
    stream_token_seconds: Annotated[
        float, Field(gt=0, le=3600, description="How long a stream token opens its stream, in seconds.")
    ] = 60
    stream_token_resume_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=86_400,
            description="How long a stream token opens it again for a client that comes with `Last-Event-ID`, in "
            "seconds from its making.",
        ),
    ] = 3600
    cors_origins: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(
            description="Origins whose pages may use the API from a browser, as `https://app.example`, separated by "
            "commas; `*`, for all, only without credentials."
        ),
    ] = ()
    max_connections: Annotated[
        int, Field(ge=1, le=1_000_000, description="Most connections that `tailrace serve` keeps open.")
    ] = 12_000
    request_seconds: Annotated[
        float,
        Field(gt=0, le=3600, description="How long a request's head, and then its body, may take to come, in seconds."),
    ] = 10
    write_seconds: Annotated[
        float,
        Field(gt=0, le=3600, description="How long a client may take nothing before it is let go, in seconds."),
    ] = 60
    worker_concurrency: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="Most runs that one process executes at the same time; more for agents that mostly wait, fewer "
            "where each holds something scarce.",
        ),
    ] = 200
    retention_days: Annotated[
        int, Field(ge=1, le=36_500, description="Age after which ended runs go to `TAILRACE_ARCHIVE_URL`, in days.")
    ] = 30
    archive_url: Annotated[
        str | None,
        Field(
            description="Where archived events lie: an absolute path, `file:///…`, `s3://bucket/…`, `gs://bucket/…` or "
            "`az://account/container/…`; workers archive only when it is set, and every `api` process needs it to read."
        ),
    ] = None
    otlp_endpoint: Annotated[
        str | None,
        Field(
            description="Root of an OpenTelemetry collector that takes OTLP over HTTP, as `http://127.0.0.1:4318`; "
            "else `OTEL_EXPORTER_OTLP_ENDPOINT`; needs `tailrace[otel]`, without which, or without either, nothing is "
            "traced."
        ),
    ] = None
    log_events: Annotated[bool, Field(description="Write a log line for every event persisted and published.")] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Least severe log line that is written.")
    ] = "info"

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and urlsplit(value.get_secret_value()).scheme not in ("postgres", "postgresql"):
            raise ValueError("must begin with postgresql:// or postgres://")
        return value

    @field_validator("bus_url")
    @classmethod
    def _is_a_bus(cls, value: SecretStr) -> SecretStr:
        require_bus(value.get_secret_value())
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/]", value):
            raise ValueError("must begin with http:// or https://")
        return value

    @field_validator("archive_url")
    @classmethod
    def _is_a_place(cls, value: str | None) -> str | None:
        if value is not None:
            require_place(value)
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for origin in value:
            if origin == "*":
                if info.data.get("api_keys_file") is not None:
                    raise ValueError("must name the origins, not *, where TAILRACE_API_KEYS_FILE is set")
            elif not _ORIGIN.match(origin):
                raise ValueError(
                    "must be origins as a browser sends them, https://app.example or http://localhost:5173"
                )
        return value


def load_settings(**overrides: Any) -> Settings:
    """Return the settings of this process.

    :param overrides: values that win over the environment, by field name.
    :raises SettingsError: a name is unknown or a value not allowed; the text lists every such place.
    """
    given = _given()
    faults = [
        _unknown(name)
        for name in sorted(given)
        if name.startswith(PREFIX) and _field(name) not in Settings.model_fields
    ]
    if faults:
        raise SettingsError("\n".join(faults))
    named = {field: f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    for field, elsewhere in STANDARD.items():
        if field not in overrides and not given.get(named[field]) and (url := given.get(elsewhere)):
            overrides[field] = url
            named[field] = elsewhere
    try:
        return Settings(**overrides)
    except ValidationError as error:
        faults = [_fault(dict(detail), named) for detail in error.errors(include_url=False)]
        raise SettingsError("\n".join(faults)) from None


def describe_settings() -> list[tuple[str, str, str]]:
    """Return name, default and meaning of every setting, from the one definition."""
    return [
        (f"{PREFIX}{name.upper()}", "" if field.default is None else _plain(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def _plain(value: object) -> str:
    match value:
        case bool():
            return str(int(value))
        case tuple():
            return ",".join(value)
        case SecretStr():
            return value.get_secret_value()
    return str(value)


def _given() -> dict[str, str | None]:
    return {name.upper(): value for name, value in {**dotenv_values(ENV_FILE), **os.environ}.items()}


def _field(name: str) -> str:
    return name.removeprefix(PREFIX).lower()


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(_field(name), Settings.model_fields, n=1)
    hint = f"did you mean {PREFIX}{near[0].upper()}?" if near else "`tailrace serve --help` lists the settings"
    return f"{name} is not a setting of Tailrace; {hint}"


def _fault(detail: dict[str, Any], named: dict[str, str]) -> str:
    field = str(detail["loc"][0]) if detail["loc"] else "settings"
    found = "" if field in SECRETS else f", found {detail['input']!r}"
    return f"{named.get(field, PREFIX + field.upper())}: {detail['msg'].removeprefix('Value error, ')}{found}"
