-- Which migrations this schema has.
create table if not exists tailrace.schema_migrations (
    version     integer     primary key,
    name        text        not null,
    applied_at  timestamptz not null default clock_timestamp()
)
