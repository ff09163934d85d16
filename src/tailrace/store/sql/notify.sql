-- Ring on channel $1 with payload $2, without waiting for the disk: a ring that is lost costs a poll.
select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)
