-- How many runs some worker holds just now.
select count(*)
from tailrace.runs as runs
where runs.state = 'started' and runs.lease_until > statement_timestamp()
