-- The log and its outbox.
--
-- Reasons, in the order of the file: an event's data and a run's input are `json`, not `jsonb`, because jsonb reorders
-- keys, drops duplicates and changes numbers (docs/adr/0008). `run_events` and the rows that every append updates have
-- fillfactor 50, and no index mentions a column that is updated per event, so that those updates stay HOT
-- (docs/adr/0006). State rules stand here as well as in the code.

create table tailrace.runs (
    id                   text        primary key,
    agent                text        not null,
    state                text        not null default 'queued',
    input                json,
    output               json,
    last_seq             bigint      not null default 0,
    v                    smallint    not null default 1,
    epoch                integer     not null default 0,
    takeovers            integer     not null default 0,
    lease_owner          text,
    lease_until          timestamptz,
    cancel_requested_at  timestamptz,
    idempotency_key      text,
    request_hash         bytea,
    created_at           timestamptz not null default clock_timestamp(),
    updated_at           timestamptz not null default clock_timestamp(),
    started_at           timestamptz,
    finished_at          timestamptz,
    constraint runs_id_is_legal check (id ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$'),
    constraint runs_state_is_legal check (state in ('queued', 'started', 'finished', 'failed', 'cancelled')),
    constraint runs_last_seq_is_legal check (last_seq >= 0),
    constraint runs_finished_at_with_terminal_state
        check ((finished_at is not null) = (state in ('finished', 'failed', 'cancelled'))),
    constraint runs_started_at_with_started_state check (state not in ('started', 'finished') or started_at is not null),
    constraint runs_queued_without_lease check (state <> 'queued' or lease_until is null),
    constraint runs_idempotency_key_with_hash check ((idempotency_key is null) = (request_hash is null))
) with (fillfactor = 50);

create unique index runs_idempotency_key on tailrace.runs (idempotency_key) where idempotency_key is not null;
-- Claim: the queue in order of arrival, and the leases by the time they end.
create index runs_queue on tailrace.runs (created_at, id) where state = 'queued';
create index runs_leases on tailrace.runs (lease_until) where state = 'started';
-- Lists, newest first.
create index runs_newest on tailrace.runs (created_at desc, id desc);
create index runs_newest_of_state on tailrace.runs (state, created_at desc, id desc);
create index runs_newest_of_agent on tailrace.runs (agent, created_at desc, id desc);

-- A run moves queued -> started -> one terminal state, and a terminal state never changes.
create function tailrace.guard_run_state() returns trigger language plpgsql as $$
begin
    if (old.state, new.state) not in (
        ('queued', 'started'), ('queued', 'failed'), ('queued', 'cancelled'),
        ('started', 'finished'), ('started', 'failed'), ('started', 'cancelled')
    ) then
        raise exception 'run % cannot go from % to %', old.id, old.state, new.state
            using errcode = 'check_violation', constraint = 'runs_state_follows_the_table';
    end if;
    return new;
end $$;

create trigger guard_run_state
    before update of state on tailrace.runs
    for each row when (old.state is distinct from new.state)
    execute function tailrace.guard_run_state();

create table tailrace.run_events (
    run_id        text        not null,
    seq           bigint      not null,
    ts            bigint      not null,
    type          text        not null,
    v             smallint    not null default 1,
    source        text        not null,
    name          text,
    fn            text,
    data          json,
    epoch         integer     not null default 0,
    published_at  timestamptz,
    created_at    timestamptz not null default clock_timestamp(),
    primary key (run_id, seq),
    constraint run_events_seq_is_legal check (seq >= 1),
    constraint run_events_type_is_legal check (type in (
        'RunStarted', 'NodeStarted', 'DebugTrace', 'NodeFinished', 'Custom', 'RunFinished', 'RunFailed', 'RunCancelled')),
    constraint run_events_source_is_legal check (source in ('api', 'worker')),
    constraint run_events_starts_with_run_started check ((seq = 1) = (type = 'RunStarted')),
    constraint run_events_data_fits_the_type check (data is null or type in ('Custom', 'RunFailed')),
    constraint run_events_name_fits_the_type check ((name is not null) = (type in ('NodeStarted', 'NodeFinished', 'Custom'))),
    constraint run_events_fn_fits_the_type check ((fn is not null) = (type in ('DebugTrace', 'RunFailed')))
) with (fillfactor = 50);

create unique index run_events_one_terminal on tailrace.run_events (run_id)
    where type in ('RunFinished', 'RunFailed', 'RunCancelled');

-- A terminal event is the last of its run. Once per statement, not per row: a batch of 1,000 costs 100 look-ups in
-- the index above when it holds 100 runs.
create function tailrace.guard_terminal_is_last() returns trigger language plpgsql as $$
declare
    offender record;
begin
    select last.run_id, last.seq, terminal.seq as terminal_seq
    into offender
    from (select run_id, max(seq) as seq from inserted group by run_id) as last
    join tailrace.run_events as terminal
        on terminal.run_id = last.run_id
        and terminal.type in ('RunFinished', 'RunFailed', 'RunCancelled')
        and terminal.seq < greatest(
            last.seq,
            (select max(e.seq) from tailrace.run_events as e where e.run_id = last.run_id and e.seq > terminal.seq)
        )
    limit 1;
    if found then
        raise exception 'run % ended at seq %; nothing may follow', offender.run_id, offender.terminal_seq
            using errcode = 'check_violation', constraint = 'run_events_terminal_is_last';
    end if;
    return null;
end $$;

create trigger guard_terminal_is_last
    after insert on tailrace.run_events
    referencing new table as inserted
    for each statement execute function tailrace.guard_terminal_is_last();

-- Everything below next_seq is published. `open` ends with the terminal event's publication, so that looking for work
-- costs what the open runs cost, however many have finished.
create table tailrace.run_outbox (
    run_id      text        primary key references tailrace.runs (id) on delete cascade,
    next_seq    bigint      not null default 1,
    open        boolean     not null default true,
    updated_at  timestamptz not null default clock_timestamp(),
    constraint run_outbox_next_seq_is_legal check (next_seq >= 1)
) with (fillfactor = 50);

create index run_outbox_open on tailrace.run_outbox (run_id) where open;

-- Results of steps that a resumed run must not repeat; key is the step's name and its turn, as in `Fetch#2`.
create table tailrace.run_steps (
    run_id      text        not null references tailrace.runs (id) on delete cascade,
    key         text        not null,
    seq         bigint      not null,
    result      json        not null,
    created_at  timestamptz not null default clock_timestamp(),
    primary key (run_id, key)
);

-- Which agents some worker has served: an API process need not know their code to accept a run for them.
create table tailrace.agents (
    name        text        primary key,
    created_at  timestamptz not null default clock_timestamp(),
    seen_at     timestamptz not null default clock_timestamp()
);
