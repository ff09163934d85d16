-- $1 finished runs with the prefix $2, as if they had ended and been published long ago.
insert into tailrace.runs (id, agent, state, last_seq, epoch, created_at, started_at, finished_at)
select $2 || n, 'past', 'finished', $3::bigint + 2, 1, began, began, began
from generate_series(1, $1::integer) as n
cross join lateral (select timestamptz '2026-01-01' + n * interval '1 second') as past (began)
