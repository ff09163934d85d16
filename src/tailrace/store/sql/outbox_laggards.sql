-- The $1 runs with the largest backlog.
select outbox.run_id, outbox.next_seq, runs.last_seq, runs.last_seq - outbox.next_seq + 1 as backlog
from tailrace.run_outbox as outbox
cross join lateral (
    select runs.last_seq
    from tailrace.runs as runs
    where runs.id = outbox.run_id
    offset 0 -- keeps this a look-up by key for each open run; as a join it could hash the whole history
) as runs
where outbox.open and outbox.next_seq <= runs.last_seq
order by backlog desc, outbox.run_id
limit $1
