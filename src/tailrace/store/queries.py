"""Loads the statements of ``sql/``, one a file, for one Postgres schema."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

# In the files the schema is written out by its default name, so that each can be pasted into psql.
_SCHEMA_NAME = re.compile(r"\btailrace\.(?=[a-z_]+\b)")


@cache
def query(name: str, schema: str) -> str:
    """Return the statement ``sql/<name>.sql`` with its tables in ``schema`` (a checked identifier)."""
    return in_schema(resources.files(__package__).joinpath("sql", f"{name}.sql").read_text("utf-8"), schema)


def in_schema(sql: str, schema: str) -> str:
    """Return ``sql`` with every ``tailrace.<name>`` moved to ``schema``."""
    return _SCHEMA_NAME.sub(f'"{schema}".', sql)
