-- The run that an idempotency key of the tenant $2 has started.
select runs.id, runs.request_hash
from tailrace.runs as runs
where runs.idempotency_key = $1 and runs.tenant = $2
