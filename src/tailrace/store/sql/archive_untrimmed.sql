-- At most $2 runs after the id $3 that have a copy and may have rows as well; not those restored within $1 seconds.
select held.run_id, held.object, held.events, objects.size_bytes
from tailrace.run_archive as held
join tailrace.archive_objects as objects on objects.name = held.object
where not held.trimmed
    and held.run_id > $3
    and (held.restored_at is null or held.restored_at < clock_timestamp() - make_interval(secs => $1))
order by held.run_id
limit $2
