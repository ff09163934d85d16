-- Frames of a run's events after $2 up to $3, each as read/frame.py makes it of its row, joined $4 at a time in four
-- parts, and how many there are.  One text for all would be so large that each buffer on its way is new memory; and a
-- number of parts that Postgres cannot see would have it plan the statement anew for each page.
-- A carriage return, which no frame has, stands for an event with more than $5 bytes of data: a page is bounded whatever
-- comes.  The size of what is stored tells that for nothing; where it is compressed, the text itself has to be measured.
-- The sub-selects are not correlated, so they are made once a page; short pieces are joined before long ones.  Most logs
-- are of one kind of event: those of the same type and name as the first one have theirs quoted once.
with sample as (
    select
        first.type, first.name,
        ',"type":"' || first.type || '","v":1,"source":"outbox","name":' || to_json(first.name)::text as kind
    from tailrace.run_events as first
    where first.run_id = $1 and first.seq = $2::bigint + 1 and first.fn is null
)
select textsend(part.text) as text, part.events
from (values ($2::bigint), ($2 + $4::bigint), ($2 + 2 * $4), ($2 + 3 * $4)) as parts (after)
cross join lateral (
    select string_agg(frames.text, '') as text, count(*) as events
    from (
        select
            case
                when
                    pg_column_size(events.data) > $5
                    or pg_column_compression(events.data) is not null and octet_length(events.data::text) > $5
                    then E'\r'
                when
                    events.name = (select name from sample)
                    and events.type = (select type from sample)
                    and events.fn is null
                    then
                    ('id: ' || events.seq || (select E'\ndata: {"runId":"' || $1 || '","seq":'))
                    || (events.seq || ',"ts":') || events.ts
                    || ((select kind from sample) || coalesce(',"data":' || events.data::text || E'}\n\n', E'}\n\n'))
                else
                    ('id: ' || events.seq || (select E'\ndata: {"runId":"' || $1 || '","seq":'))
                    || (events.seq || ',"ts":') || events.ts
                    || (',"type":"' || events.type || '","v":1,"source":"outbox"')
                    || coalesce(',"name":' || to_json(events.name)::text, '')
                    || coalesce(',"fn":' || to_json(events.fn)::text, '')
                    || coalesce(',"data":' || events.data::text, '')
                    || E'}\n\n'
            end as text
        from tailrace.run_events as events
        where events.run_id = $1 and events.seq > parts.after and events.seq <= least(parts.after + $4, $3)
        order by events.seq
        limit $4
    ) as frames
) as part
