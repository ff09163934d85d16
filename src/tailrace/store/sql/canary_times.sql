-- When the canary $1's events were published, in seconds after each was written.
select events.seq, extract(epoch from events.published_at - events.created_at)::float8 as outbox_seconds
from tailrace.run_events as events
where events.run_id = $1 and events.published_at is not null
order by events.seq
