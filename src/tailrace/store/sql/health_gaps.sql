-- Runs in progress whose log has fewer events than its last seq says: at most $2 of them, among those that changed last
-- and have no more than $1 events together.  What has ended may be in the archive, so it is not counted.
select runs.id as run_id, count(*) over () as total
from (
    select open.id, open.last_seq, sum(open.last_seq) over (order by open.updated_at desc, open.id) as events
    from tailrace.runs as open
    where open.state in ('queued', 'started')
) as runs
where runs.events <= $1
    and runs.last_seq > (select count(*) from tailrace.run_events as events where events.run_id = runs.id)
order by runs.id
limit $2
