-- One run, of the tenant $2 if that is given, with its outbox cursor and, when it failed, the terminal event's error.
select
    runs.id, runs.agent, runs.state, runs.input, runs.output, runs.last_seq, outbox.next_seq,
    runs.created_at, runs.updated_at, runs.started_at, runs.finished_at, runs.cancel_requested_at,
    terminal.fn as error_class, terminal.data ->> 'message' as error_message
from tailrace.runs as runs
join tailrace.run_outbox as outbox on outbox.run_id = runs.id
left join tailrace.run_events as terminal
    on runs.state = 'failed' and terminal.run_id = runs.id and terminal.seq = runs.last_seq
where runs.id = $1 and ($2::text is null or runs.tenant = $2)
