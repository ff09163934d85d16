-- Which of the runs $1 were asked to end.
select runs.id
from tailrace.runs as runs
where runs.id = any($1::text[]) and runs.cancel_requested_at is not null and runs.state = 'started'
