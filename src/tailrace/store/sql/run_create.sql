-- Create runs, each with its RunStarted and its outbox row, in one statement and one commit.
--
-- $1-$8: one element a run: id, agent, input, idempotency key or null, request hash or null, RunStarted's ts, tenant,
-- traceparent or null.
-- $9-$11: of each, whether it is born started, with a lease of the worker $10 for $11 seconds of database time; as if
-- that worker had claimed it at once.  The others are queued.
-- No id and no key of a tenant stands there twice: of two such rows it could not be told which was written.
-- Returns a row for each run that was created; of the others the id is taken, or the idempotency key within the tenant.
-- Lock order: new rows alone, in the order given, which is the same in every process (write/starter.py).
with request as (
    select *
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bigint[], $7::text[],
        $8::text[], $9::boolean[])
        with ordinality as request (
            run_id, agent, input, idempotency_key, request_hash, ts, tenant, traceparent, leased, place
        )
), created as (
    insert into tailrace.runs (
        id, agent, input, last_seq, idempotency_key, request_hash, tenant, traceparent,
        state, epoch, lease_owner, lease_until, started_at, created_at, updated_at
    )
    select
        request.run_id, request.agent, request.input::json, 1, request.idempotency_key, request.request_hash,
        request.tenant, request.traceparent,
        case when request.leased then 'started' else 'queued' end,
        case when request.leased then 1 else 0 end,
        case when request.leased then $10::text end,
        case when request.leased then request.now + make_interval(secs => $11) end,
        case when request.leased then request.now end,
        request.now, request.now
    from (select request.*, clock_timestamp() as now from request order by request.place) as request
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
