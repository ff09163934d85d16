-- As outbox_take, for the runs $1 alone: reached by primary key, so it costs what the hints cost.
with taken as (
    select outbox.run_id, outbox.next_seq
    from tailrace.run_outbox as outbox
    where outbox.run_id = any($1::text[])
    limit $2
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
    limit $3
) as event
where event.bytes is null or event.bytes <= $4 or event.seq = taken.next_seq
order by event.run_id, event.seq
