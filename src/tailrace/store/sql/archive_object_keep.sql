-- The object $2 was read back and is good, $3 bytes and $4 events: from now on it holds the runs $5, each from row $6 on, with
-- $7 events of the hash $8.
-- Lock order: the turn, then rows of runs; these have ended, and nobody else locks them.
with turn as materialized (
    select turn.holder
    from tailrace.archive_turn as turn
    where turn.holder = $1 and turn.until > clock_timestamp()
    for no key update -- nobody takes the turn before this commit
), stored as (
    update tailrace.archive_objects as objects
    set state = 'stored', size_bytes = $3, events = $4, changed_at = clock_timestamp()
    from turn
    where objects.name = $2 and objects.state = 'writing'
    returning objects.name
), held as (
    insert into tailrace.run_archive (run_id, object, first_row, events, sha256)
    select run.id, stored.name, run.first_row, run.events, run.sha256
    from stored
    cross join unnest($5::text[], $6::bigint[], $7::bigint[], $8::bytea[]) as run (id, first_row, events, sha256)
    returning run_id
), marked as (
    update tailrace.runs as runs
    set archived_at = clock_timestamp()
    from held
    where runs.id = held.run_id
)
select stored.name
from stored
