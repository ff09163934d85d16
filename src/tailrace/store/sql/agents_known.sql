-- Agents that some worker has served, for an error that helps.
select agents.name
from tailrace.agents as agents
where not starts_with(agents.name, 'tailrace:canary:') -- the doctor's
order by agents.name
limit 100
