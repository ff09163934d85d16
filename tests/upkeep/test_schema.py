"""The indexes that the doctor expects are those that the migrations make."""

from __future__ import annotations

from tailrace.store.database import Database
from tailrace.store.health import Health
from tailrace.store.migrate import Migration
from tailrace.upkeep.schema import needed_indexes


async def test_what_is_read_from_the_migrations_is_what_they_make(database: Database) -> None:
    """A migration in a form that is not understood would be found here, not at an operator's."""
    there = await Health(database).indexes()
    assert set(needed_indexes()) == set(there)
    assert all(there.values())


def test_what_a_later_migration_drops_is_not_expected() -> None:
    """Dropped, made anew, mentioned in a comment."""
    steps = [
        Migration(1, "0001_a", "create table tailrace.t (a int primary key); create index one on tailrace.t (a);"),
        Migration(2, "0002_b", "drop index if exists tailrace.one; -- create index two on tailrace.t (a);\n"),
        Migration(3, "0003_c", "create unique index if not exists three on tailrace.t (a) where a > 0;"),
    ]
    assert set(needed_indexes(steps)) == {"schema_migrations_pkey", "t_pkey", "three"}
    assert needed_indexes(steps)["three"].statement is not None
