-- The first seq of the run $1 that is in Postgres.
select min(events.seq)
from tailrace.run_events as events
where events.run_id = $1
