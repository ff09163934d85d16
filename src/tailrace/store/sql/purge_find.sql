-- The runs $1, or those of the tenant $2, after the id $3, as far as a purge asks about them; at most $4.
select
    runs.id, runs.last_seq, held.object,
    runs.finished_at is not null as ended, outbox.next_seq > runs.last_seq as published
from tailrace.runs as runs
join tailrace.run_outbox as outbox on outbox.run_id = runs.id
left join tailrace.run_archive as held on held.run_id = runs.id
where (runs.id = any($1::text[]) or runs.tenant = $2) and runs.id > $3
order by runs.id
limit $4
