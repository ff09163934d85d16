-- Runs whose log has fewer events than its last seq says: at most $2 of them, among those in progress that changed last and
-- the $3 that ended last, each with no more than $1 events together.  Of a run that has ended only what comes after its
-- first row is due: it may be on its way out.  What has left for the archive is not counted.
select runs.id as run_id, count(*) over () as total
from (
    select open.id, open.last_seq, 1 as first_seq, sum(open.last_seq) over (order by open.updated_at desc, open.id) as events
    from tailrace.runs as open
    where open.state in ('queued', 'started')
    union all
    select
        ended.id, ended.last_seq,
        (select min(events.seq) from tailrace.run_events as events where events.run_id = ended.id) as first_seq,
        sum(ended.last_seq) over (order by ended.finished_at desc, ended.id desc) as events
    from (
        select latest.id, latest.last_seq, latest.finished_at
        from tailrace.runs as latest
        where latest.finished_at is not null and latest.archived_at is null -- as the index runs_to_archive has them
        order by latest.finished_at desc, latest.id desc
        limit $3
    ) as ended
) as runs
where runs.events <= $1
    and runs.last_seq - runs.first_seq + 1 > (select count(*) from tailrace.run_events as events where events.run_id = runs.id)
order by runs.id
limit $2
