-- Remove the canaries $1, if they are any: their events, their runs (the outbox rows go along) and their agents.
-- $2: what a canary's agent is named, before the id of its run.
with canaries as (
    select runs.id
    from tailrace.runs as runs
    where runs.id = any($1::text[]) and runs.agent = $2 || runs.id
    for update of runs -- an append or a takeover in progress goes first
), events as (
    delete from tailrace.run_events as events
    using canaries
    where events.run_id = canaries.id
), agents as (
    delete from tailrace.agents as agents
    where agents.name in (select $2 || id from unnest($1::text[]) as id)
)
delete from tailrace.runs as runs
using canaries
where runs.id = canaries.id
returning runs.id
