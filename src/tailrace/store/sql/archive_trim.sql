-- Delete the rows of run $2[i] after $3[i] up to $4[i], which never reaches the last one, and say how many there were.
-- Only rows of runs that have a copy: whatever is asked, nothing else is deleted here.
with turn as materialized (
    select turn.holder
    from tailrace.archive_turn as turn
    where turn.holder = $1 and turn.until > clock_timestamp()
    for no key update -- nobody takes the turn before this commit
), bounds as materialized (
    select wanted.run_id, wanted.after_seq, least(wanted.upto_seq, held.events - 1) as upto_seq
    from unnest($2::text[], $3::bigint[], $4::bigint[]) as wanted (run_id, after_seq, upto_seq)
    join tailrace.run_archive as held on held.run_id = wanted.run_id
), deleted as (
    delete from tailrace.run_events as events
    using turn, bounds
    where events.run_id = bounds.run_id and events.seq > bounds.after_seq and events.seq <= bounds.upto_seq
    returning events.seq
)
select (select count(*) from turn) as held, (select count(*) from deleted) as deleted
