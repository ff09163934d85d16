-- Of the runs $2, only the last row is left in Postgres.
with turn as materialized (
    select turn.holder
    from tailrace.archive_turn as turn
    where turn.holder = $1 and turn.until > clock_timestamp()
    for no key update -- nobody takes the turn before this commit
)
update tailrace.run_archive as held
set trimmed = true
from turn
where held.run_id = any($2::text[])
returning held.run_id
