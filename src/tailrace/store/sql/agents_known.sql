-- Agents that some worker has served, for an error that helps.
select agents.name
from tailrace.agents as agents
order by agents.name
limit 100
