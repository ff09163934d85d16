-- Which session holds the advisory lock $1 of an upgrade.
select locks.pid
from pg_locks as locks
where locks.locktype = 'advisory'
    and locks.granted
    and locks.database = (select oid from pg_database where datname = current_database())
    and (locks.classid::bigint << 32) + locks.objid::bigint = $1
