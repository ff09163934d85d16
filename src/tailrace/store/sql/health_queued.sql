-- Runs that have been queued for $1 seconds: the $2 oldest, and how many there are in all.
select runs.id as run_id, count(*) over () as total
from tailrace.runs as runs
where runs.state = 'queued' and runs.created_at < clock_timestamp() - make_interval(secs => $1)
order by runs.created_at, runs.id
limit $2
