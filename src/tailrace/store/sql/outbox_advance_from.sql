-- Lock the outbox rows of runs whose cursor stands where their new events begin, mark these published and move the
-- cursors.  $1: a line a run, as for outbox_advance.  Returns the runs that this was done for.
with batch as (
    select
        split_part(line, e'\x1f', 1) as run_id,
        split_part(line, e'\x1f', 2)::bigint as first_seq,
        split_part(line, e'\x1f', 3)::bigint as last_seq,
        split_part(line, e'\x1f', 4)::boolean as terminal
    from unnest(string_to_array($1, e'\x1e')) as line
), taken as materialized (
    select batch.*
    from tailrace.run_outbox as outbox
    join batch on batch.run_id = outbox.run_id and batch.first_seq = outbox.next_seq
    for update of outbox skip locked -- one publisher a run; what it holds it publishes itself
), marked as (
    update tailrace.run_events as events
    set published_at = clock_timestamp()
    from taken
    where events.run_id = taken.run_id and events.seq between taken.first_seq and taken.last_seq
), advanced as (
    update tailrace.run_outbox as outbox
    set next_seq = taken.last_seq + 1, open = not taken.terminal, updated_at = clock_timestamp()
    from taken
    where outbox.run_id = taken.run_id
)
select run_id
from taken
