-- Frames of a run's events after $2 up to $3, at most $4 of them, each as read/frame.py makes it of its row.
-- Null stands for an event that has to be read as a row: its data has more than $5 bytes, so that a page is bounded
-- whatever comes, or a line break, which only rows written by hand have.
select array(
    select
        case
            when octet_length(events.data::text) > $5
                or position(E'\n' in events.data::text) > 0
                or position(E'\r' in events.data::text) > 0
            then null
            else
                'id: ' || events.seq
                -- Not correlated, so made once a page.
                || (select E'\ndata: {"runId":"' || $1 || '","seq":') || events.seq
                || ',"ts":' || events.ts || ',"type":"' || events.type || '","v":1,"source":"outbox"'
                || case when events.name is null then '' else ',"name":' || to_json(events.name)::text end
                || case when events.fn is null then '' else ',"fn":' || to_json(events.fn)::text end
                || case when events.data is null then '' else ',"data":' || events.data::text end
                || E'}\n\n'
        end
    from tailrace.run_events as events
    where events.run_id = $1 and events.seq > $2 and events.seq <= $3
    order by events.seq
    limit $4
) as frames
