-- What the session's statement_timeout is, in milliseconds: what was asked for, unless a pooler stands between.
select setting from pg_settings where name = 'statement_timeout'
