-- Delete the rows of the run $2 after $3 up to $4, and say how many there were.
with turn as materialized (
    select turn.holder
    from tailrace.archive_turn as turn
    where turn.holder = $1 and turn.until > clock_timestamp()
    for no key update -- nobody takes the turn before this commit
), deleted as (
    delete from tailrace.run_events as events
    using turn
    where events.run_id = $2 and events.seq > $3 and events.seq <= $4
    returning events.seq
)
select (select count(*) from turn) as held, (select count(*) from deleted) as deleted
