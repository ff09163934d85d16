-- Put runs that could not be published at the end of the queue, so that they do not fill every look at the open runs.
update tailrace.run_outbox as outbox
set updated_at = clock_timestamp()
where outbox.run_id = any($1::text[])
