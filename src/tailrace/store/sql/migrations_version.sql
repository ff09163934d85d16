-- The newest migration that was applied, 0 for none.
select coalesce(max(version), 0)
from tailrace.schema_migrations
