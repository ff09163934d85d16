-- Account for the object $2 before it is written.
with turn as materialized (
    select turn.holder
    from tailrace.archive_turn as turn
    where turn.holder = $1 and turn.until > clock_timestamp()
    for no key update -- nobody takes the turn before this commit
)
insert into tailrace.archive_objects (name)
select $2
from turn
returning name
