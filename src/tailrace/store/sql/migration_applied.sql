-- Record a migration, in its own transaction.
insert into tailrace.schema_migrations (version, name)
values ($1, $2)
