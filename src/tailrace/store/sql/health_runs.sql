-- What is known of the runs $1, with ages in seconds by the clock of the database.
-- A gap is looked for in $2 events before and after the outbox's cursor; before the first event of a run that has ended
-- there is none: its older events may be in the archive.
select
    runs.id as run_id, runs.agent, runs.state, runs.last_seq, outbox.next_seq, runs.lease_owner,
    runs.cancel_requested_at is not null as cancel_requested,
    extract(epoch from runs.lease_until - clock_timestamp())::float8 as lease_left_seconds,
    extract(epoch from clock_timestamp() - runs.created_at)::float8 as age_seconds,
    extract(epoch from clock_timestamp() - runs.updated_at)::float8 as silent_seconds,
    extract(epoch from clock_timestamp() - outbox.updated_at)::float8 as outbox_silent_seconds,
    extract(epoch from clock_timestamp() - agents.seen_at)::float8 as agent_unseen_seconds,
    next.type as next_type,
    next.published_at is not null as next_published,
    extract(epoch from clock_timestamp() - next.created_at)::float8 as next_age_seconds,
    extract(epoch from clock_timestamp() - last.created_at)::float8 as last_event_age_seconds,
    gap.seq as missing_seq
from tailrace.runs as runs
join tailrace.run_outbox as outbox on outbox.run_id = runs.id
left join tailrace.agents as agents on agents.name = runs.agent
left join tailrace.run_events as next on next.run_id = runs.id and next.seq = outbox.next_seq
left join lateral (
    select events.created_at
    from tailrace.run_events as events
    where events.run_id = runs.id
    order by events.seq desc
    limit 1
) as last on true
cross join lateral (
    select
        greatest(
            outbox.next_seq - $2,
            case when runs.state in ('queued', 'started') then 1 else coalesce(
                (select min(events.seq) from tailrace.run_events as events where events.run_id = runs.id), runs.last_seq
            ) end
        ) as low,
        least(runs.last_seq, outbox.next_seq + $2) as high
) as bounds
left join lateral (
    select coalesce(
        min(found.expected) filter (where found.seq <> found.expected),
        case when count(*) < bounds.high - bounds.low + 1 then bounds.low + count(*) end
    ) as seq
    from (
        select events.seq, bounds.low - 1 + row_number() over (order by events.seq) as expected
        from tailrace.run_events as events
        where events.run_id = runs.id and events.seq between bounds.low and bounds.high
    ) as found
) as gap on true
where runs.id = any($1::text[])
order by runs.id
