-- How far the runs $1 are published and persisted, whether they have ended, and whose they are.
select
    runs.id as run_id, outbox.next_seq - 1 as published_seq, runs.last_seq,
    runs.state in ('finished', 'failed', 'cancelled') as ended, runs.tenant,
    runs.archived_at is not null as archived
from tailrace.runs as runs
join tailrace.run_outbox as outbox on outbox.run_id = runs.id
where runs.id = any($1::text[])
