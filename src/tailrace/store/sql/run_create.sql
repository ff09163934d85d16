-- Create a run, its RunStarted and its outbox row: all or nothing, in one statement.
-- Returns no row when the id is taken, or the idempotency key within the tenant.
with created as (
    insert into tailrace.runs (id, agent, input, last_seq, idempotency_key, request_hash, tenant, traceparent)
    values ($1, $2, $3::json, 1, $4, $5, $7, $8)
    on conflict do nothing -- either unique key: the caller looks which, and answers as the contract says
    returning id
), logged as (
    insert into tailrace.run_events (run_id, seq, ts, type, source)
    select created.id, 1, $6, 'RunStarted', 'api'
    from created
), queued as (
    insert into tailrace.run_outbox (run_id)
    select created.id
    from created
)
select created.id
from created
