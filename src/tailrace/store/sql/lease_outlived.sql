-- Tell that the leases (run $1[i], epoch $2[i]) ended while their worker lived and could not reach Postgres.
-- Nobody has taken the run yet: it is given back, as by a worker that stops. Somebody has: one death less.
-- Lock order: rows of runs by id.
with outlived as (
    select runs.id, runs.epoch = held.epoch as is_free
    from tailrace.runs as runs
    join unnest($1::text[], $2::integer[]) as held (run_id, epoch) on held.run_id = runs.id
    where runs.state = 'started' and runs.epoch >= held.epoch
    order by runs.id
    for no key update of runs -- a claim that commits first is seen, one that comes later finds no owner
)
update tailrace.runs as runs
set lease_owner = case when outlived.is_free then null else runs.lease_owner end,
    takeovers = case when outlived.is_free then runs.takeovers else greatest(runs.takeovers - 1, 0) end
from outlived
where runs.id = outlived.id
returning runs.id
