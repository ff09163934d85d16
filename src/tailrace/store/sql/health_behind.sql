-- Open runs whose next event to publish has waited for $1 seconds, or is missing: the $2 with the largest backlog, and
-- how many there are in all.  A missing one waits since the run's last change.
select outbox.run_id, count(*) over () as total
from tailrace.run_outbox as outbox
cross join lateral (
    select runs.last_seq, runs.updated_at
    from tailrace.runs as runs
    where runs.id = outbox.run_id
    offset 0 -- keeps this a look-up by key for each open run; as a join it could hash the whole history
) as runs
left join lateral (
    select events.created_at
    from tailrace.run_events as events
    where events.run_id = outbox.run_id and events.seq = outbox.next_seq
    offset 0 -- as above
) as events on true
where outbox.open
    and outbox.next_seq <= runs.last_seq
    and coalesce(events.created_at, runs.updated_at) < clock_timestamp() - make_interval(secs => $1)
order by runs.last_seq - outbox.next_seq desc, outbox.run_id
limit $2
