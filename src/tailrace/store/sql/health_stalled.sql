-- Started runs without a new event for $1 seconds: the $2 that are silent for longest, and how many there are in all.
select runs.id as run_id, count(*) over () as total
from tailrace.runs as runs
where runs.state = 'started' and runs.updated_at < clock_timestamp() - make_interval(secs => $1)
order by runs.updated_at, runs.id
limit $2
