-- Started runs whose lease ended $1 seconds ago and that nobody has taken over: the $2 oldest, and how many in all.
-- statement_timestamp(), for the index on lease_until, as in lease_claim.
select runs.id as run_id, count(*) over () as total
from tailrace.runs as runs
where runs.state = 'started' and runs.lease_until < statement_timestamp() - make_interval(secs => $1)
order by runs.lease_until, runs.id
limit $2
