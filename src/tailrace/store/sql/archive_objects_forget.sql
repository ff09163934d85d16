-- Forget the objects that were doomed more than $2 seconds ago: nobody can be writing them any more.
with turn as materialized (
    select turn.holder
    from tailrace.archive_turn as turn
    where turn.holder = $1 and turn.until > clock_timestamp()
    for no key update -- nobody takes the turn before this commit
)
delete from tailrace.archive_objects as objects
using turn
where objects.state = 'doomed' and objects.changed_at < clock_timestamp() - make_interval(secs => $2)
returning objects.name
