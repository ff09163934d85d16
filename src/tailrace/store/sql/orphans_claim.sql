-- Claim up to $2 runs of agents that nobody serves any more, for the worker $1, for $3 seconds of database time.
-- $4: an agent that no worker has served for this many seconds is gone, for started runs.
-- $5: the same for queued runs, which must have waited as long themselves; null: leave the queue alone.
-- An agent without a row is one that no worker has ever served: the run's own age is all there is to go by.
-- statement_timestamp() for the sake of the index on lease_until, as in lease_claim.
-- Lock order: runs alone; both reads skip what another worker is claiming.
with started as (
    select runs.id
    from tailrace.runs as runs
    where runs.state = 'started'
        and runs.lease_until < statement_timestamp()
        and not exists (
            select
            from tailrace.agents as agents
            where agents.name = runs.agent and agents.seen_at > statement_timestamp() - make_interval(secs => $4)
        )
    order by runs.lease_until
    limit $2
    for no key update of runs skip locked
), queue as (
    select runs.id
    from tailrace.runs as runs
    where runs.state = 'queued'
        and runs.created_at < statement_timestamp() - make_interval(secs => $5) -- null when $5 is: no row
        and not exists (
            select
            from tailrace.agents as agents
            where agents.name = runs.agent and agents.seen_at > statement_timestamp() - make_interval(secs => $5)
        )
    order by runs.created_at, runs.id
    limit $2
    for no key update of runs skip locked
), chosen as (
    select id from started
    union all
    select id from queue
    limit $2
)
update tailrace.runs as runs
set state = 'started',
    epoch = runs.epoch + 1,
    lease_owner = $1,
    lease_until = clock_timestamp() + make_interval(secs => $3),
    started_at = coalesce(runs.started_at, clock_timestamp()),
    updated_at = clock_timestamp()
from chosen
where runs.id = chosen.id
returning
    runs.id, runs.agent, runs.input, runs.epoch, runs.last_seq, runs.takeovers, runs.epoch > 1 as resumed,
    runs.cancel_requested_at is not null as cancel_requested,
    extract(epoch from runs.created_at)::float8 as created, runs.traceparent
