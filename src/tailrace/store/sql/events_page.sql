-- Events of a run after $2 up to $3, at most $4 of them and about $5 bytes of data, but always the first.
select page.run_id, page.seq, page.ts, page.type, page.name, page.fn, page.data
from (
    select
        events.run_id, events.seq, events.ts, events.type, events.name, events.fn, events.data,
        sum(octet_length(events.data::text)) over (order by events.seq rows unbounded preceding) as bytes
    from tailrace.run_events as events
    where events.run_id = $1 and events.seq > $2 and events.seq <= $3
    order by events.seq
    limit $4
) as page
where page.bytes is null or page.bytes <= $5 or page.seq - 1 = $2 -- $2 may be the last that there is
order by page.seq
