-- Whether this session may write: on a standby no session may, and elsewhere by default_transaction_read_only.
select pg_is_in_recovery() as is_standby, current_setting('transaction_read_only') = 'on' as is_read_only
