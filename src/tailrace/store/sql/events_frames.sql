-- What is particular to each frame of a run's events after $2 up to $3, joined $4 at a time in four parts, and how many
-- there are; read/frame.py writes the frames out.  What all have in common would be more than half of the bytes, and a
-- byte costs 1.5 ns.  Bytes that no JSON has stand for it: 1 between two frames, 2 between the two places of a seq, 3
-- for `kind`, from the type to the data, of events like the page's first one.
-- One text for all would be so large that each buffer on its way is new memory; and a number of parts that Postgres
-- cannot see would have it plan the statement anew for each page.
-- A carriage return, which no frame has, stands for an event with more than $5 bytes of data: a page is bounded whatever
-- comes.  The size of what is stored tells that for nothing; where it is compressed, the text itself has to be measured.
-- The sub-selects are not correlated, so they are made once a page.  Most logs are of one kind of event, and name and
-- data are what `Custom` alone has together.
with sample as (
    select
        first.name,
        ',"type":"Custom","v":1,"source":"outbox","name":' || to_json(first.name)::text || ',"data":' as kind
    from tailrace.run_events as first
    where first.run_id = $1 and first.seq = $2::bigint + 1 and first.type = 'Custom'
)
select textsend(part.text) as text, part.events, (select textsend(kind) from sample) as kind
from (values ($2::bigint), ($2 + $4::bigint), ($2 + 2 * $4), ($2 + 3 * $4)) as parts (after)
cross join lateral (
    select string_agg(frames.text, E'\x01') as text, count(*) as events
    from (
        select
            case
                when
                    events.name = (select name from sample)
                    and pg_column_size(events.data) <= $5
                    and pg_column_compression(events.data) is null
                    then
                    events.seq || E'\x02' || events.seq || ',"ts":' || events.ts || E'\x03' || events.data::text
                when
                    pg_column_size(events.data) > $5
                    or pg_column_compression(events.data) is not null and octet_length(events.data::text) > $5
                    then E'\r'
                else
                    events.seq || E'\x02' || events.seq || ',"ts":' || events.ts
                    || (',"type":"' || events.type || '","v":1,"source":"outbox"')
                    || coalesce(',"name":' || to_json(events.name)::text, '')
                    || coalesce(',"fn":' || to_json(events.fn)::text, '')
                    || coalesce(',"data":' || events.data::text, '')
            end as text
        from tailrace.run_events as events
        where events.run_id = $1 and events.seq > parts.after and events.seq <= least(parts.after + $4, $3)
        order by events.seq
        limit $4
    ) as frames
) as part
