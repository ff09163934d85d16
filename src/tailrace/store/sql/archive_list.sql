-- At most $2 runs that have an archive copy, by id, after $1.
select
    held.run_id, held.object, held.first_row, held.events, held.sha256, objects.size_bytes, runs.archived_at,
    held.restored_at, held.trimmed
from tailrace.run_archive as held
join tailrace.archive_objects as objects on objects.name = held.object
join tailrace.runs as runs on runs.id = held.run_id
where held.run_id > $1
order by held.run_id
limit $2
