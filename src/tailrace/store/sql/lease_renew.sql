-- Prolong the leases (run $1[i], epoch $2[i]) by $3 seconds of database time; returns those that were still held.
-- Lock order: rows of runs by id, as in append. In any other order the two deadlock: measured at 100 runs in progress,
-- with one second, Postgres's deadlock_timeout, in which nothing was appended.
with held as materialized (
    select runs.id
    from tailrace.runs as runs
    join unnest($1::text[], $2::integer[]) as held (run_id, epoch) on held.run_id = runs.id
    where runs.epoch = held.epoch and runs.state = 'started'
    order by runs.id
    for no key update of runs -- waits for an append's commit, and an append for this
)
update tailrace.runs as runs
set lease_until = clock_timestamp() + make_interval(secs => $3)
from held
where runs.id = held.id
returning runs.id
