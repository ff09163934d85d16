-- Take the turn, or keep it, for $2 seconds of database time under the name $1; no row when another holds it.
update tailrace.archive_turn as turn
set holder = $1, until = clock_timestamp() + make_interval(secs => $2)
where turn.holder is null or turn.holder = $1 or turn.until < clock_timestamp()
returning turn.holder
