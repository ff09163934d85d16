-- Mark what was published and move the cursors.  $1: a line a run, as store/lines.py writes them: id, first seq, last seq,
-- whether the last event is terminal.
-- Returns the runs that have more to publish already.  The caller holds the locks of these outbox rows.
with done as (
    select
        split_part(line, e'\x1f', 1) as run_id,
        split_part(line, e'\x1f', 2)::bigint as first_seq,
        split_part(line, e'\x1f', 3)::bigint as last_seq,
        split_part(line, e'\x1f', 4)::boolean as terminal
    from unnest(string_to_array($1, e'\x1e')) as line
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
