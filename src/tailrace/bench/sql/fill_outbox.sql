-- The outbox rows of the runs of fill_runs: all published.
insert into tailrace.run_outbox (run_id, next_seq, open)
select $2 || n, $3::bigint + 3, false
from generate_series(1, $1::integer) as n
