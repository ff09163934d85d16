-- Lock the outbox rows of runs with events to publish and read those events, in order.
--
-- $1: most runs; $2: most events a run, so that a flooding run does not starve the others; $3: about how many bytes of
-- data a run, but always its first event; $4: runs to leave out, whose events the caller holds already.
with taken as (
    select outbox.run_id, outbox.next_seq
    from tailrace.run_outbox as outbox
    where outbox.open
        and outbox.run_id <> all($4::text[])
        -- A subquery, because a join let the planner hash the whole history of runs (seen at 50,000 runs, 800 open).
        and outbox.next_seq <= (select runs.last_seq from tailrace.runs as runs where runs.id = outbox.run_id)
    order by outbox.updated_at, outbox.run_id -- longest unattended first
    limit $1
    for update of outbox skip locked -- one publisher a run; another one takes other runs meanwhile
)
select event.run_id, event.seq, event.ts, event.type, event.name, event.fn, event.data, taken.next_seq
from taken
cross join lateral (
    select
        events.run_id, events.seq, events.ts, events.type, events.name, events.fn, events.data,
        sum(octet_length(events.data::text)) over (order by events.seq rows unbounded preceding) as bytes
    from tailrace.run_events as events
    where events.run_id = taken.run_id and events.seq >= taken.next_seq
    order by events.seq
    limit $2
) as event
where event.bytes is null or event.bytes <= $3 or event.seq = taken.next_seq
order by event.run_id, event.seq
