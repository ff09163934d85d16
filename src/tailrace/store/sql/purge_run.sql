-- Delete the runs $2, and by cascade their cursors and kept steps; not those that still have a copy or have not ended.
with turn as materialized (
    select turn.holder
    from tailrace.archive_turn as turn
    where turn.holder = $1 and turn.until > clock_timestamp()
    for no key update -- nobody takes the turn before this commit
)
delete from tailrace.runs as runs
using turn
where runs.id = any($2::text[])
    and runs.finished_at is not null
    and not exists (select from tailrace.run_archive as held where held.run_id = runs.id)
returning runs.id
