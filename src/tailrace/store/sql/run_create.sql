-- Create runs, each with its RunStarted and its outbox row, in one statement and one commit.
--
-- $1-$8: one element a run: id, agent, input, idempotency key or null, request hash or null, RunStarted's ts, tenant,
-- traceparent or null.
-- No id and no key of a tenant stands there twice: of two such rows it could not be told which was written.
-- Returns a row for each run that was created; of the others the id is taken, or the idempotency key within the tenant.
-- Lock order: new rows alone, in the order given, which is the same in every process (write/starter.py).
with request as (
    select *
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bigint[], $7::text[],
        $8::text[])
        with ordinality as request (run_id, agent, input, idempotency_key, request_hash, ts, tenant, traceparent, place)
), created as (
    insert into tailrace.runs (id, agent, input, last_seq, idempotency_key, request_hash, tenant, traceparent)
    select
        request.run_id, request.agent, request.input::json, 1, request.idempotency_key, request.request_hash,
        request.tenant, request.traceparent
    from request
    order by request.place
    on conflict do nothing -- either unique key: the caller looks which, and answers as the contract says
    returning id, created_at, updated_at
), logged as (
    insert into tailrace.run_events (run_id, seq, ts, type, source)
    select created.id, 1, request.ts, 'RunStarted', 'api'
    from created
    join request on request.run_id = created.id
), queued as (
    insert into tailrace.run_outbox (run_id)
    select created.id
    from created
)
select created.id, created.created_at, created.updated_at
from created
