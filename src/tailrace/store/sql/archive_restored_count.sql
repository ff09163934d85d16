-- How many events of archived runs were brought back; by the index of those that are not trimmed, which are few.
select coalesce(sum(held.events), 0)::bigint
from tailrace.run_archive as held
where not held.trimmed and held.restored_at is not null
