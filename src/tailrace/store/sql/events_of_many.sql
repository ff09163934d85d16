-- Events of many runs: run $1[i] after $2[i] up to $3[i], at most $4 of each.
select event.run_id, event.seq, event.ts, event.type, event.name, event.fn, event.data
from unnest($1::text[], $2::bigint[], $3::bigint[]) as wanted (run_id, after_seq, upto_seq)
cross join lateral (
    select events.run_id, events.seq, events.ts, events.type, events.name, events.fn, events.data
    from tailrace.run_events as events
    where events.run_id = wanted.run_id and events.seq > wanted.after_seq and events.seq <= wanted.upto_seq
    order by events.seq
    limit $4
) as event
order by event.run_id, event.seq
