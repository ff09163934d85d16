"""Migrations leave standing what the code before them uses: processes of both versions share the database.

What takes something away, or makes something stricter, is a step of its own, once no code in use needs it, and says so:
``-- contract: …`` before the statement, with the reason.  What holds writers up for as long as it takes needs
``-- holds writers up: …``.  docs/upgrading.md tells how such changes are made.
"""

from __future__ import annotations

import re

import pytest

from tailrace.store.migrate import migrations

# Released before this was checked.
BASELINE = 5
CONTRACT, HOLDS_UP = "contract", "holds writers up"
_RULES = [
    (CONTRACT, r"\bdrop\s+(?:table|column|view|materialized\s+view|function|type|schema|sequence|domain)\b"),
    (CONTRACT, r"\balter\s+table\b[^;]*\bdrop\s+(?!constraint\b|not\s+null\b|column\b)"),
    (CONTRACT, r"\brename\b"),
    (CONTRACT, r"\balter\s+(?:column\s+)?\w+\s+(?:set\s+data\s+)?type\b"),
    (CONTRACT, r"\bset\s+not\s+null\b"),
    (CONTRACT, r"\bdrop\s+default\b"),
    (CONTRACT, r"\btruncate\b"),
    # Rows that the old code writes have no such value.
    (
        CONTRACT,
        r"\badd\s+(?:column\s+)?(?:if\s+not\s+exists\s+)?(?!constraint\b)\w+(?![^,;]*\bdefault\b)[^,;]*\bnot\s+null\b",
    ),
    (CONTRACT, r"\badd\s+(?:constraint\s+\w+\s+)?(?:check|unique|primary|foreign|exclude)\b"),
    (CONTRACT, r"\bcreate\s+unique\s+index\b"),
    (HOLDS_UP, r"\bcreate\s+index\b"),
]
# As an append locks them: a migration that holds a later one while it waits for an earlier one has to give way.
_ORDER = ["runs", "run_events", "run_outbox", "run_steps"]
_MADE = re.compile(r"\bcreate\s+table\s+(?:if\s+not\s+exists\s+)?tailrace\.(\w+)")
_ON = re.compile(r"\b(?:on|alter\s+table(?:\s+if\s+exists)?)\s+(?:only\s+)?tailrace\.(\w+)")
_STATEMENT = re.compile(r"(?:\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'|--[^\n]*|[^;])+", re.DOTALL)
# Comments, strings and the bodies of functions, in which words mean nothing.
_BODY = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$", re.DOTALL)


def breaks(sql: str) -> list[str]:
    """Return which statements of a migration old code may not survive, or must wait for, and do not say so."""
    made = set(_MADE.findall(_BODY.sub("", sql).lower()))
    found = []
    for match in _STATEMENT.finditer(sql):
        text = match[0]
        plain = _BODY.sub("", text).lower()
        table = _ON.search(plain)
        if table is not None and table[1] in made:
            continue
        for mark, pattern in _RULES:
            if re.search(pattern, plain) and not re.search(rf"--[ ]*{mark}:[ ]*\S", text):
                found.append(f"{mark}: {' '.join(plain.split())}")
                break
    return found


def tables_changed(sql: str) -> list[str]:
    """Return the tables of the append that a migration changes, in the order in which it does."""
    changed = re.findall(
        r"\balter\s+table\s+(?:if\s+exists\s+)?(?:only\s+)?tailrace\.(\w+)", _BODY.sub("", sql).lower()
    )
    return [table for table in changed if table in _ORDER]


def test_tables_are_changed_in_the_order_in_which_an_append_locks_them() -> None:
    """In the other order the two wait for each other, and nothing is appended until the upgrade gives way."""
    assert tables_changed("alter table tailrace.run_events add a int; alter table tailrace.runs add a int") == [
        "run_events",
        "runs",
    ]
    for migration in migrations():
        changed = tables_changed(migration.sql)
        assert changed == sorted(changed, key=_ORDER.index), migration.name


def test_every_migration_since_leaves_the_code_before_it_working() -> None:
    """A file that does not, and has its reason, says so where it does it."""
    assert {m.name: breaks(m.sql) for m in migrations() if m.version > BASELINE and breaks(m.sql)} == {}


def test_which_of_the_first_ones_did_not() -> None:
    """Known, and why upgrades from before the first release stop the service: 0002 makes another unique index and a
    check, 0004 an index on a table in use."""
    broke = {m.version: breaks(m.sql) for m in migrations() if m.version <= BASELINE and breaks(m.sql)}
    assert sorted(broke) == [2, 4]
    assert [text.partition(":")[0] for text in broke[4]] == [HOLDS_UP]


@pytest.mark.parametrize(
    "sql",
    [
        "alter table tailrace.runs drop column tenant",
        "alter table tailrace.runs drop tenant",
        "alter table tailrace.runs add column a int, drop column if exists b",
        "drop table tailrace.agents",
        "drop table if exists tailrace.agents cascade",
        "alter table tailrace.runs rename column agent to worker",
        "alter table tailrace.runs rename to jobs",
        "alter table tailrace.runs alter column v type integer",
        "alter table tailrace.runs alter v set data type integer",
        "alter table tailrace.runs alter column traceparent set not null",
        "alter table tailrace.runs alter column v drop default",
        "alter table tailrace.runs add column a text not null",
        "alter table tailrace.runs add column a text default 'x' not null, add column b text not null",
        "alter table tailrace.runs add a text not null",
        "alter table tailrace.runs add constraint short check (length(agent) < 9)",
        "alter table tailrace.runs add unique (agent)",
        "create unique index one on tailrace.runs (agent)",
        "create index slow on tailrace.run_events (ts)",
        "drop function tailrace.guard_run_state()",
        "truncate tailrace.agents",
        "ALTER TABLE tailrace.runs\n    DROP COLUMN tenant",
        "-- contract: it is another statement that this belongs to\nselect 1; alter table tailrace.runs drop column v",
        "-- contract:\nalter table tailrace.runs drop column v",
        "create table tailrace.new (a int); alter table tailrace.runs drop column v",
    ],
)
def test_what_old_code_may_not_survive_is_found(sql: str) -> None:
    assert len(breaks(sql)) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "alter table tailrace.runs add column a text",
        "alter table tailrace.runs add column a text not null default 'x'",
        "alter table tailrace.runs add column a text default 'x' not null, add column b numeric(3, 1)",
        "alter table tailrace.runs drop constraint runs_id_is_legal",
        "alter table tailrace.runs alter column input drop not null",
        "create table tailrace.new (a int primary key, b text not null, constraint c check (a > 0))",
        "create table tailrace.new (a int); create unique index one on tailrace.new (a)",
        "create table tailrace.new (a int); alter table tailrace.new add unique (a)",
        "drop index tailrace.runs_newest; drop trigger guard_run_id on tailrace.runs",
        "create or replace function tailrace.f() returns trigger language plpgsql as $$ begin drop table x; end $$",
        "-- contract: since 0.3 nobody reads it\nalter table tailrace.runs drop column v",
        "select 1;\n-- holds writers up: 5 s for ten million rows\ncreate index slow on tailrace.run_events (ts)",
        "-- rename, truncate and drop table are words here\nselect 'drop table'",
    ],
)
def test_what_old_code_survives_is_let_through(sql: str) -> None:
    assert breaks(sql) == []
