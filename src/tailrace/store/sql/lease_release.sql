-- Give back the leases (run $1[i], epoch $2[i]) of a worker that stops: anyone may take them at once, and it does not
-- count as a take-over.
update tailrace.runs as runs
set lease_until = clock_timestamp() - interval '1 millisecond', lease_owner = null
from unnest($1::text[], $2::integer[]) as held (run_id, epoch)
where runs.id = held.run_id and runs.epoch = held.epoch and runs.state = 'started'
returning runs.id
