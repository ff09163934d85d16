"""The statements of ``sql/``, for one schema."""

from __future__ import annotations

from importlib import resources

from tailrace.store.queries import in_schema


def statement(name: str, schema: str) -> str:
    """Return the statement ``sql/<name>.sql`` with its tables in ``schema``."""
    return in_schema(resources.files(__package__).joinpath("sql", f"{name}.sql").read_text("utf-8"), schema)
