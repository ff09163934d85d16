-- Cancel a run: a queued one ends here and now, a started one is asked to end by its worker.
-- Returns the state the run was in and RunCancelled's seq if it was written, or no row when there is no such run,
-- or none of the tenant $3 if that is given.
with target as (
    select runs.id, runs.state, runs.epoch
    from tailrace.runs as runs
    where runs.id = $1 and ($3::text is null or runs.tenant = $3)
    for no key update -- serialises with claim and append: whoever comes second sees what the first did
), ended as (
    update tailrace.runs as runs
    set state = 'cancelled',
        last_seq = runs.last_seq + 1,
        cancel_requested_at = clock_timestamp(),
        finished_at = clock_timestamp(),
        updated_at = clock_timestamp()
    from target
    where runs.id = target.id and target.state = 'queued'
    returning runs.id, runs.last_seq, runs.epoch
), logged as (
    insert into tailrace.run_events (run_id, seq, ts, type, source, epoch)
    select ended.id, ended.last_seq, $2, 'RunCancelled', 'api', ended.epoch
    from ended
), asked as (
    update tailrace.runs as runs
    set cancel_requested_at = coalesce(runs.cancel_requested_at, clock_timestamp())
    from target
    where runs.id = target.id and target.state = 'started'
)
select target.state, ended.last_seq
from target
left join ended on ended.id = target.id
