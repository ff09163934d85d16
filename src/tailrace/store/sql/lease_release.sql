-- Give back the leases (run $1[i], epoch $2[i]) of the worker $3, which stops or does not know whether it got them:
-- anyone may take them at once, and it does not count as a take-over.
-- Lock order: rows of runs by id, as in append.
with held as materialized (
    select runs.id
    from tailrace.runs as runs
    join unnest($1::text[], $2::integer[]) as held (run_id, epoch) on held.run_id = runs.id
    where runs.epoch = held.epoch and runs.state = 'started' and runs.lease_owner = $3
    order by runs.id
    for no key update of runs -- waits for an append's commit, and an append for this
)
update tailrace.runs as runs
set lease_until = clock_timestamp() - interval '1 millisecond', lease_owner = null
from held
where runs.id = held.id
returning runs.id
