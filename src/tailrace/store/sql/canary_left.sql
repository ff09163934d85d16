-- Ids of canaries that were left behind by a doctor that was killed: their agents, named $1 and the id, are $2 seconds old.
select substr(agents.name, length($1) + 1) as run_id
from tailrace.agents as agents
where starts_with(agents.name, $1) and agents.seen_at < clock_timestamp() - make_interval(secs => $2)
