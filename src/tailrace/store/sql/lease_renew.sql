-- Prolong the leases (run $1[i], epoch $2[i]) by $3 seconds of database time; returns those that were still held.
update tailrace.runs as runs
set lease_until = clock_timestamp() + make_interval(secs => $3)
from unnest($1::text[], $2::integer[]) as held (run_id, epoch)
where runs.id = held.run_id and runs.epoch = held.epoch and runs.state = 'started'
returning runs.id
