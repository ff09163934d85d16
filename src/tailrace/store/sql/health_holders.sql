-- Sessions that have held locks of the outbox for more than $1 seconds, longest first.
select
    activity.pid, activity.application_name, activity.state,
    extract(epoch from clock_timestamp() - activity.xact_start)::float8 as held_seconds
from pg_locks as locks
join pg_stat_activity as activity on activity.pid = locks.pid
where locks.relation = to_regclass('tailrace.run_outbox')
    and locks.granted
    and locks.pid <> pg_backend_pid()
    and activity.xact_start < clock_timestamp() - make_interval(secs => $1)
group by activity.pid, activity.application_name, activity.state, activity.xact_start
order by activity.xact_start
limit 5
