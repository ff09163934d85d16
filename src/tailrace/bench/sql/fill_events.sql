-- The published logs of the runs of fill_runs: RunStarted, $3 events, RunFinished.
insert into tailrace.run_events (run_id, seq, ts, type, source, name, data, epoch, published_at)
select
    $2 || n, seq, 1790000000000,
    case when seq = 1 then 'RunStarted' when seq = $3::bigint + 2 then 'RunFinished' else 'Custom' end,
    case when seq = 1 then 'api' else 'worker' end,
    case when seq between 2 and $3::bigint + 1 then 'Progress' end,
    case when seq between 2 and $3::bigint + 1
        then ('{"t":1790000000000000000,"x":"' || repeat('x', 24) || '"}')::json end,
    1, clock_timestamp()
from generate_series(1, $1::integer) as n
cross join generate_series(1, $3::bigint + 2) as seq
