-- Whole rows of run $1[i] after $2[i] up to $3[i], in the order of the arrays, about $4 bytes of data, but always the first.
-- Times are microseconds since the Unix epoch.
select
    page.run_id, page.seq, page.ts, page.type, page.v, page.source, page.name, page.fn, page.data, page.epoch,
    (extract(epoch from page.published_at) * 1000000)::bigint as published_us,
    (extract(epoch from page.created_at) * 1000000)::bigint as created_us
from (
    select
        event.run_id, event.seq, event.ts, event.type, event.v, event.source, event.name, event.fn, event.data, event.epoch,
        event.published_at, event.created_at, wanted.turn,
        sum(octet_length(event.data::text)) over (order by wanted.turn, event.seq rows unbounded preceding) as bytes,
        row_number() over (order by wanted.turn, event.seq) as number
    from unnest($1::text[], $2::bigint[], $3::bigint[]) with ordinality as wanted (run_id, after_seq, upto_seq, turn)
    cross join lateral (
        select
            events.run_id, events.seq, events.ts, events.type, events.v, events.source, events.name, events.fn,
            events.data, events.epoch, events.published_at, events.created_at
        from tailrace.run_events as events
        where events.run_id = wanted.run_id and events.seq > wanted.after_seq and events.seq <= wanted.upto_seq
        order by events.seq
    ) as event
) as page
where page.bytes is null or page.bytes <= $4 or page.number = 1
order by page.turn, page.seq
