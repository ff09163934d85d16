-- Claim up to $3 runs of the agents $2 for the worker $1, for $4 seconds of database time.
-- Expired leases come first, in the order in which they ended, so that a full queue cannot starve a rescue.
-- statement_timestamp(), unlike clock_timestamp(), does not change within the statement, so the index on lease_until
-- ends the search at the first healthy lease instead of reading them all.
-- takeovers: an expired lease with an owner is the death of a worker; a step kept under the lease starts the count anew.
-- Lock order: runs alone; both reads skip what another worker is claiming.
with expired as (
    select runs.id
    from tailrace.runs as runs
    where runs.state = 'started' and runs.lease_until < statement_timestamp() and runs.agent = any($2::text[])
    order by runs.lease_until
    limit $3
    for no key update skip locked
), queue as (
    select runs.id
    from tailrace.runs as runs
    where runs.state = 'queued' and runs.agent = any($2::text[])
    order by runs.created_at, runs.id
    limit $3
    for no key update skip locked
), chosen as (
    select id from expired
    union all
    select id from queue
    limit $3
)
update tailrace.runs as runs
set state = 'started',
    epoch = runs.epoch + 1,
    takeovers = case when runs.epoch > 0 and runs.epoch = (
            select events.epoch
            from tailrace.run_events as events
            where events.run_id = runs.id
                and events.seq = (select max(steps.seq) from tailrace.run_steps as steps where steps.run_id = runs.id)
        ) then 0 else runs.takeovers end
        + case when runs.state = 'started' and runs.lease_owner is not null then 1 else 0 end,
    lease_owner = $1,
    lease_until = clock_timestamp() + make_interval(secs => $4),
    started_at = coalesce(runs.started_at, clock_timestamp()),
    updated_at = clock_timestamp()
from chosen
where runs.id = chosen.id
returning
    runs.id, runs.agent, runs.input, runs.epoch, runs.last_seq, runs.takeovers, runs.epoch > 1 as resumed,
    runs.cancel_requested_at is not null as cancel_requested,
    extract(epoch from runs.created_at)::float8 as created, runs.traceparent
