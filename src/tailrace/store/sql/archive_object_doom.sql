-- The objects $2 shall not be: removed from the store now, and again for a while.
with turn as materialized (
    select turn.holder
    from tailrace.archive_turn as turn
    where turn.holder = $1 and turn.until > clock_timestamp()
    for no key update -- nobody takes the turn before this commit
)
update tailrace.archive_objects as objects
set state = 'doomed', changed_at = clock_timestamp()
from turn
where objects.name = any($2::text[]) and objects.state <> 'doomed'
returning objects.name
