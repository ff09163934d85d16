-- The rows of a backfill, all columns that go over the wire.
select events.run_id, events.seq, events.ts, events.type, events.v, events.source, events.name, events.fn, events.data
from tailrace.run_events as events
where events.run_id = $1
order by events.seq
