-- Runs that ended more than $1 seconds ago, are published to their end and have no archive copy, after ($2, $3), by the time
-- they ended; at most $4.
select runs.id, runs.last_seq, runs.finished_at
from tailrace.runs as runs
join tailrace.run_outbox as outbox on outbox.run_id = runs.id
where runs.finished_at < clock_timestamp() - make_interval(secs => $1)
    and runs.archived_at is null
    and (runs.finished_at, runs.id) > ($2::timestamptz, $3::text)
    and outbox.next_seq > runs.last_seq
order by runs.finished_at, runs.id
limit $4
