-- Frames of a run's events after $2 up to $3, at most $4 of them, each as read/frame.py makes it of its row.
-- Null stands for an event with more than $5 bytes of data, so that a page is bounded whatever comes.
-- The sub-select is not correlated, so it is made once a page; short pieces are joined before long ones.
select array(
    select
        case
            when octet_length(events.data::text) > $5 then null
            -- The commonest type by far; through the general form below it costs a third more.
            when events.type = 'Custom' then
                ('id: ' || events.seq || (select E'\ndata: {"runId":"' || $1 || '","seq":'))
                || (events.seq || ',"ts":') || events.ts
                || (',"type":"Custom","v":1,"source":"outbox","name":' || to_json(events.name)::text)
                || coalesce(',"data":' || events.data::text || E'}\n\n', E'}\n\n')
            else
                ('id: ' || events.seq || (select E'\ndata: {"runId":"' || $1 || '","seq":'))
                || (events.seq || ',"ts":') || events.ts
                || (',"type":"' || events.type || '","v":1,"source":"outbox"')
                || coalesce(',"name":' || to_json(events.name)::text, '')
                || coalesce(',"fn":' || to_json(events.fn)::text, '')
                || coalesce(',"data":' || events.data::text, '')
                || E'}\n\n'
        end
    from tailrace.run_events as events
    where events.run_id = $1 and events.seq > $2 and events.seq <= $3
    order by events.seq
    limit $4
) as frames
