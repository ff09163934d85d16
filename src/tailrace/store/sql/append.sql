-- Append a batch of events of many runs in one statement and one commit.
--
-- Lines of fields, as store/lines.py writes them.  $1: a line a run: id, epoch, first seq, last seq, terminal state,
-- output.  $2: a line an event: run, seq, ts, type, name, fn, data.  $3: a line a kept step: run, key, seq, result.
-- A run is accepted when its epoch is the caller's, it is started, and the batch begins right after its last seq.
-- Runs that fail the check fail alone: the caller compares what it sent with the row returned for each run.
-- Lock order: rows of runs by id.
with batch as (
    select
        split_part(line, e'\x1f', 1) as run_id,
        split_part(line, e'\x1f', 2)::integer as epoch,
        split_part(line, e'\x1f', 3)::bigint as first_seq,
        split_part(line, e'\x1f', 4)::bigint as last_seq,
        nullif(split_part(line, e'\x1f', 5), '') as state,
        nullif(split_part(line, e'\x1f', 6), '')::json as output
    from unnest(string_to_array($1, e'\x1e')) as line
), event as (
    select
        split_part(line, e'\x1f', 1) as run_id,
        split_part(line, e'\x1f', 2)::bigint as seq,
        split_part(line, e'\x1f', 3)::bigint as ts,
        split_part(line, e'\x1f', 4) as type,
        nullif(split_part(line, e'\x1f', 5), '') as name,
        nullif(split_part(line, e'\x1f', 6), '') as fn,
        nullif(split_part(line, e'\x1f', 7), '')::json as data
    from unnest(string_to_array($2, e'\x1e')) as line
), locked as materialized (
    select runs.id, runs.state, runs.epoch, runs.last_seq
    from tailrace.runs as runs
    join batch on batch.run_id = runs.id
    order by runs.id
    for no key update of runs -- a take-over or a cancel waits for this commit, or this waits for theirs and sees it
), accepted as materialized (
    select batch.*
    from batch
    join locked on locked.id = batch.run_id
    where locked.state = 'started' and locked.epoch = batch.epoch and locked.last_seq = batch.first_seq - 1
), bumped as (
    update tailrace.runs as runs
    set last_seq = accepted.last_seq,
        updated_at = clock_timestamp()
    from accepted
    where runs.id = accepted.run_id and accepted.state is null
), ended as (
    update tailrace.runs as runs
    set last_seq = accepted.last_seq,
        updated_at = clock_timestamp(),
        finished_at = clock_timestamp(),
        state = accepted.state,
        output = accepted.output,
        lease_owner = null,
        lease_until = null
    from accepted
    where runs.id = accepted.run_id and accepted.state is not null
), inserted as (
    insert into tailrace.run_events (run_id, seq, ts, type, source, name, fn, data, epoch)
    select
        event.run_id, event.seq, event.ts, event.type, 'worker',
        case when strpos(event.name, e'\x1d') = 0 then event.name
            else replace(replace(replace(event.name, e'\x1dr', e'\x1e'), e'\x1du', e'\x1f'), e'\x1ds', e'\x1d') end,
        case when strpos(event.fn, e'\x1d') = 0 then event.fn
            else replace(replace(replace(event.fn, e'\x1dr', e'\x1e'), e'\x1du', e'\x1f'), e'\x1ds', e'\x1d') end,
        event.data, accepted.epoch
    from event
    join accepted on accepted.run_id = event.run_id
), kept as (
    insert into tailrace.run_steps (run_id, key, seq, result)
    select
        step.run_id,
        case when strpos(step.key, e'\x1d') = 0 then step.key
            else replace(replace(replace(step.key, e'\x1dr', e'\x1e'), e'\x1du', e'\x1f'), e'\x1ds', e'\x1d') end,
        step.seq, step.result
    from (
        select
            split_part(line, e'\x1f', 1) as run_id,
            split_part(line, e'\x1f', 2) as key,
            split_part(line, e'\x1f', 3)::bigint as seq,
            split_part(line, e'\x1f', 4)::json as result
        from unnest(string_to_array($3, e'\x1e')) as line
    ) as step
    join accepted on accepted.run_id = step.run_id
), dropped as (
    -- An ended run is never resumed; what was kept for that has no reader any more.
    delete from tailrace.run_steps as steps
    using accepted
    where steps.run_id = accepted.run_id and accepted.state is not null
)
select locked.id, locked.state, locked.epoch, locked.last_seq
from locked
