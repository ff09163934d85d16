-- Give the turn of $1 back.
update tailrace.archive_turn as turn
set holder = null
where turn.holder = $1
