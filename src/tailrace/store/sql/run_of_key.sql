-- The run that an idempotency key has started.
select runs.id, runs.request_hash
from tailrace.runs as runs
where runs.idempotency_key = $1
