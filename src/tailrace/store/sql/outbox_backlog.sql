-- How much is persisted and not yet published, in all.
select
    coalesce(sum(runs.last_seq - outbox.next_seq + 1), 0)::bigint as backlog,
    extract(epoch from clock_timestamp() - min(events.created_at))::float8 as oldest_seconds
from tailrace.run_outbox as outbox
join tailrace.runs as runs on runs.id = outbox.run_id
left join tailrace.run_events as events on events.run_id = outbox.run_id and events.seq = outbox.next_seq
where outbox.open and outbox.next_seq <= runs.last_seq
