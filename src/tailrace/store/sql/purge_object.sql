-- Let go of the object $2: the runs $6 are in the object $3 (null when there are none) of $4 bytes and $5 events now, each from
-- row $7 on; the runs $8 have no copy any more.
with turn as materialized (
    select turn.holder
    from tailrace.archive_turn as turn
    where turn.holder = $1 and turn.until > clock_timestamp()
    for no key update -- nobody takes the turn before this commit
), stored as (
    update tailrace.archive_objects as objects
    set state = 'stored', size_bytes = $4, events = $5, changed_at = clock_timestamp()
    from turn
    where objects.name = $3 and objects.state = 'writing'
), moved as (
    update tailrace.run_archive as held
    set object = $3, first_row = run.first_row
    from turn
    cross join unnest($6::text[], $7::bigint[]) as run (id, first_row)
    where held.run_id = run.id and held.object = $2
), dropped as (
    delete from tailrace.run_archive as held
    using turn
    where held.run_id = any($8::text[]) and held.object = $2
), doomed as (
    update tailrace.archive_objects as objects
    set state = 'doomed', changed_at = clock_timestamp()
    from turn
    where objects.name = $2
    returning objects.name
)
select doomed.name
from doomed
