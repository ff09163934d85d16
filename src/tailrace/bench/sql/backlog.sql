-- How many events wait to be published.
select coalesce(sum(runs.last_seq - outbox.next_seq + 1), 0)::bigint
from tailrace.run_outbox as outbox
join tailrace.runs as runs on runs.id = outbox.run_id
where outbox.open
