-- Runs, of the tenant $6 if that is given, newest first, after a cursor (created_at, id).
select
    runs.id, runs.agent, runs.state, null::json as input, null::json as output, runs.last_seq, outbox.next_seq,
    runs.created_at, runs.updated_at, runs.started_at, runs.finished_at, runs.cancel_requested_at,
    null::text as error_class, null::text as error_message
from tailrace.runs as runs
join tailrace.run_outbox as outbox on outbox.run_id = runs.id
where ($6::text is null or runs.tenant = $6)
    and ($1::text is null or runs.state = $1)
    and ($2::text is null or runs.agent = $2)
    and not starts_with(runs.agent, 'tailrace:canary:') -- the doctor's, which are nobody's runs
    and ($3::timestamptz is null or (runs.created_at, runs.id) < ($3, $4::text))
order by runs.created_at desc, runs.id desc
limit $5
