-- Whether some worker has served the agent $1.
select exists (select from tailrace.agents where agents.name = $1)
