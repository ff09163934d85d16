-- The kept results of a run's steps.
select steps.key, steps.result
from tailrace.run_steps as steps
where steps.run_id = $1
