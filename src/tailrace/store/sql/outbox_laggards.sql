-- The $1 runs with the largest backlog.
select outbox.run_id, outbox.next_seq, runs.last_seq, runs.last_seq - outbox.next_seq + 1 as backlog
from tailrace.run_outbox as outbox
join tailrace.runs as runs on runs.id = outbox.run_id
where outbox.open and outbox.next_seq <= runs.last_seq
order by backlog desc, outbox.run_id
limit $1
