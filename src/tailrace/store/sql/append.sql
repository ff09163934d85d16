-- Append a batch of events of many runs in one statement and one commit.
--
-- $1-$6: one element a run: id, epoch, first seq, last seq, terminal state or null, output or null.
-- $7-$13: one element an event: run, seq, ts, type, name, fn, data.  $14-$17: one element a kept step: run, key, seq, result.
-- A run is accepted when its epoch is the caller's, it is started, and the batch begins right after its last seq.
-- Runs that fail the check fail alone: the caller compares what it sent with the row returned for each run.
-- Lock order: rows of runs by id.
with batch as (
    select *
    from unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $5::text[], $6::text[])
        as batch (run_id, epoch, first_seq, last_seq, state, output)
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
        output = accepted.output::json,
        lease_owner = null,
        lease_until = null
    from accepted
    where runs.id = accepted.run_id and accepted.state is not null
), inserted as (
    insert into tailrace.run_events (run_id, seq, ts, type, source, name, fn, data, epoch)
    select event.run_id, event.seq, event.ts, event.type, 'worker', event.name, event.fn, event.data::json, accepted.epoch
    from unnest($7::text[], $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::text[], $13::text[])
        as event (run_id, seq, ts, type, name, fn, data)
    join accepted on accepted.run_id = event.run_id
), kept as (
    insert into tailrace.run_steps (run_id, key, seq, result)
    select step.run_id, step.key, step.seq, step.result::json
    from unnest($14::text[], $15::text[], $16::bigint[], $17::text[]) as step (run_id, key, seq, result)
    join accepted on accepted.run_id = step.run_id
), dropped as (
    -- An ended run is never resumed; what was kept for that has no reader any more.
    delete from tailrace.run_steps as steps
    using accepted
    where steps.run_id = accepted.run_id and accepted.state is not null
)
select locked.id, locked.state, locked.epoch, locked.last_seq
from locked
