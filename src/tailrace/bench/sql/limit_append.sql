-- The least that a durable append with a checked seq and an outbox cursor asks of Postgres.
--
-- $1-$3: one element a run: id, first seq, last seq.  $4-$7: one element an event: run, seq, ts, data.
with batch as (
    select *
    from unnest($1::text[], $2::bigint[], $3::bigint[]) as batch (run_id, first_seq, last_seq)
), accepted as (
    update tailrace.limit_runs as runs
    set last_seq = batch.last_seq,
        updated_at = clock_timestamp()
    from batch
    where runs.id = batch.run_id and runs.last_seq = batch.first_seq - 1
    returning runs.id, batch.last_seq
), advanced as (
    update tailrace.limit_outbox as outbox
    set next_seq = accepted.last_seq + 1,
        updated_at = clock_timestamp()
    from accepted
    where outbox.run_id = accepted.id
), inserted as (
    insert into tailrace.limit_events (run_id, seq, ts, type, source, name, data)
    select event.run_id, event.seq, event.ts, 'Custom', 'worker', 'Progress', event.data::json
    from unnest($4::text[], $5::bigint[], $6::bigint[], $7::text[]) as event (run_id, seq, ts, data)
    join accepted on accepted.id = event.run_id
)
select accepted.id
from accepted
