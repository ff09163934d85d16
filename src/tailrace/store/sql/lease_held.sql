-- The leases that stand under the name of the worker $1, over or not.
select runs.id, runs.epoch
from tailrace.runs as runs
where runs.state = 'started' and runs.lease_owner = $1
