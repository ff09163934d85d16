-- Of the runs $1: how many have begun or ended, how many are finished, and how many events they have by their heads.
select
    count(*) filter (where runs.state <> 'queued') as begun,
    count(*) filter (where runs.state = 'finished') as finished,
    coalesce(sum(runs.last_seq), 0)::bigint as events
from tailrace.runs as runs
where runs.id = any($1::text[])
