-- The oldest transaction that holds a lock on a table of this schema.
select
    activity.pid, activity.application_name as program,
    extract(epoch from clock_timestamp() - activity.xact_start)::float as seconds
from pg_stat_activity as activity
where activity.pid <> pg_backend_pid()
    and activity.xact_start is not null
    and exists (
        select
        from pg_locks as locks
        join pg_class as held on held.oid = locks.relation
        join pg_class as ours on ours.relnamespace = held.relnamespace
        where locks.pid = activity.pid
            and locks.granted
            and locks.database = (select oid from pg_database where datname = current_database())
            and ours.oid = to_regclass('tailrace.schema_migrations')
    )
order by activity.xact_start
limit 1
