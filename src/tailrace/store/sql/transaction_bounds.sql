-- Bound this transaction alone by $1 milliseconds, where a pooler lets nothing be set for the session.
select
    set_config('statement_timeout', $1, true),
    set_config('lock_timeout', $1, true),
    set_config('idle_in_transaction_session_timeout', $1, true),
    set_config('jit', 'off', true)
