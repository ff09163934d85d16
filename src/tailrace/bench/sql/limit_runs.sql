-- $1 runs to append to, each at seq 1.
with made as (
    insert into tailrace.limit_runs (id)
    select 'run-' || to_char(n, 'FM000000')
    from generate_series(1, $1::integer) as n
    returning id
), queued as (
    insert into tailrace.limit_outbox (run_id)
    select made.id
    from made
)
select made.id
from made
