-- Mark what was published and move the cursors: run $1[i], seqs $2[i] to $3[i], $4[i] true when the last is terminal.
-- Returns the runs that have more to publish already.  The caller holds the locks of these outbox rows.
with done as (
    select *
    from unnest($1::text[], $2::bigint[], $3::bigint[], $4::boolean[]) as done (run_id, first_seq, last_seq, terminal)
), marked as (
    update tailrace.run_events as events
    set published_at = clock_timestamp()
    from done
    where events.run_id = done.run_id and events.seq between done.first_seq and done.last_seq
), advanced as (
    update tailrace.run_outbox as outbox
    set next_seq = done.last_seq + 1, open = not done.terminal, updated_at = clock_timestamp()
    from done
    where outbox.run_id = done.run_id
)
select runs.id
from tailrace.runs as runs
join done on done.run_id = runs.id
where runs.last_seq > done.last_seq
