-- Record that a worker serves the agents $1 now. In the order of the names, so that two workers never wait for each other.
insert into tailrace.agents (name)
select name from unnest($1::text[]) as name order by name
on conflict (name) do update set seen_at = clock_timestamp() -- a restart serves the same agents again
