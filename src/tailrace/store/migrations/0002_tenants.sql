-- Tenants: who owns a run.
--
-- A run belongs to the tenant whose key started it, and nobody else is told that it exists (docs/adr/0014). Without
-- credentials every run is of the tenant `default`, and so is every run that was there before. Idempotency keys are each
-- tenant's own. The id stays unique over all: the log and the outbox are found by it. `runs_newest` stays for operators,
-- who list the runs of all.

alter table tailrace.runs
    add column tenant text not null default 'default',
    add constraint runs_tenant_is_legal check (tenant ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$');

drop index if exists tailrace.runs_idempotency_key;
create unique index runs_idempotency_key on tailrace.runs (tenant, idempotency_key) where idempotency_key is not null;
drop index if exists tailrace.runs_newest_of_state;
drop index if exists tailrace.runs_newest_of_agent;
create index runs_newest_of_state on tailrace.runs (tenant, state, created_at desc, id desc);
create index runs_newest_of_agent on tailrace.runs (tenant, agent, created_at desc, id desc);
create index runs_newest_of_tenant on tailrace.runs (tenant, created_at desc, id desc);
