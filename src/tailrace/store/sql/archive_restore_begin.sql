-- From now on the rows of the run $2 are wanted: no turn deletes them until the retention is over once more.
with turn as materialized (
    select turn.holder
    from tailrace.archive_turn as turn
    where turn.holder = $1 and turn.until > clock_timestamp()
    for no key update -- nobody takes the turn before this commit
)
update tailrace.run_archive as held
set restored_at = clock_timestamp(), trimmed = false
from turn
where held.run_id = $2
returning held.run_id
