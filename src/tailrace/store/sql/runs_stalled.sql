-- How many started runs have had no new event for $1 seconds.
select count(*)
from tailrace.runs as runs
where runs.state = 'started' and runs.updated_at < clock_timestamp() - make_interval(secs => $1)
