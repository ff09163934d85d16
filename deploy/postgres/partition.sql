-- Partitions Tailrace's large tables by the hash of run_id: run_events, run_outbox and run_steps, 16 partitions each.
--
--     psql --single-transaction --set ON_ERROR_STOP=1 --file partition.sql "$TAILRACE_DATABASE_URL"
--
-- Stop every Tailrace process first: each table is copied under an exclusive lock, and needs its own size again on the
-- disk.  When it is a good idea, and what it costs: docs/performance.md.  With another TAILRACE_DB_SCHEMA than
-- `tailrace`, replace `tailrace.` throughout.
--
-- Every key and every statement of Tailrace carries run_id, so each works on the partitions of its runs alone.  `runs`
-- stays whole: an idempotency key is unique in its tenant, over all runs, and Postgres keeps a unique index on a
-- partitioned table only when it holds the partition key.  It has one row a run.
--
-- Defaults, checks, keys, indexes and triggers are read from the tables as they are, so this also fits later versions
-- of the schema.
do $$
declare
    partitions constant integer := 16;
    big regclass;
    name text;
    space text;
    constraints text[];
    indexes text[];
    triggers text[];
    command text;
begin
    foreach big in array array['tailrace.run_events', 'tailrace.run_outbox', 'tailrace.run_steps']::regclass[] loop
        select relname, relnamespace::regnamespace::text into name, space from pg_class where oid = big;
        continue when (select relkind from pg_class where oid = big) = 'p';
        execute format('lock table %s in access exclusive mode', big);

        select coalesce(array_agg(format('alter table %I.%I add constraint %I %s',
                space, name, conname, pg_get_constraintdef(oid)) order by contype desc), '{}')
        into constraints
        from pg_constraint
        where conrelid = big and contype in ('p', 'f', 'u');
        select coalesce(array_agg(pg_get_indexdef(indexrelid)), '{}')
        into indexes
        from pg_index
        where indrelid = big and not exists (select from pg_constraint where conindid = indexrelid);
        select coalesce(array_agg(pg_get_triggerdef(oid)), '{}')
        into triggers
        from pg_trigger
        where tgrelid = big and not tgisinternal;

        execute format('alter table %s rename to %I', big, name || '_whole');
        execute format(
            'create table %1$s.%2$I (like %1$s.%3$I including defaults including constraints including comments) '
            'partition by hash (run_id)', space, name, name || '_whole');
        for remainder in 0 .. partitions - 1 loop
            execute format(
                'create table %1$s.%2$I partition of %1$s.%3$I for values with (modulus %4$s, remainder %5$s) '
                'with (fillfactor = 50)', space, name || '_' || remainder, name, partitions, remainder);
        end loop;
        execute format('insert into %1$s.%2$I select * from %1$s.%3$I', space, name, name || '_whole');
        execute format('drop table %s.%I', space, name || '_whole');
        foreach command in array constraints || indexes || triggers loop
            execute command;
        end loop;
        execute format('analyze %s.%I', space, name);
    end loop;
end $$;
