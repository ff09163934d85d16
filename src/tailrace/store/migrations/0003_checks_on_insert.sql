-- The shapes of a run's id and tenant are checked when they are written, and not at every append.
--
-- A check constraint is evaluated on every update of its row, and every append updates its run's. These two regular
-- expressions took a third of the Postgres time of an append (measured: 24.8 µs an event with them, 16.8 without). A
-- trigger that fires on insert, and on an update of these columns alone, guards the same.

alter table tailrace.runs
    drop constraint runs_id_is_legal,
    drop constraint runs_tenant_is_legal;

create function tailrace.refuse_run_name() returns trigger language plpgsql as $$
begin
    raise exception 'the % of run % of tenant % has an illegal shape', tg_argv[0], new.id, new.tenant
        using errcode = 'check_violation', constraint = format('runs_%s_is_legal', tg_argv[0]);
end $$;

create trigger guard_run_id
    before insert or update of id on tailrace.runs
    for each row when (new.id !~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$')
    execute function tailrace.refuse_run_name('id');

create trigger guard_run_tenant
    before insert or update of tenant on tailrace.runs
    for each row when (new.tenant !~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$')
    execute function tailrace.refuse_run_name('tenant');
