-- How much is persisted and not yet published, in all.
select
    coalesce(sum(runs.last_seq - outbox.next_seq + 1), 0)::bigint as backlog,
    extract(epoch from clock_timestamp() - min(events.created_at))::float8 as oldest_seconds
from tailrace.run_outbox as outbox
cross join lateral (
    select runs.last_seq
    from tailrace.runs as runs
    where runs.id = outbox.run_id
    offset 0 -- keeps this a look-up by key for each open run; as a join it could hash the whole history
) as runs
left join lateral (
    select events.created_at
    from tailrace.run_events as events
    where events.run_id = outbox.run_id and events.seq = outbox.next_seq
    offset 0 -- as above
) as events on true
where outbox.open and outbox.next_seq <= runs.last_seq
