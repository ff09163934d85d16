-- Tables with the columns of the real ones, their keys and their fillfactor, and nothing else: no checks, no triggers.
create table tailrace.limit_runs (
    id          text    primary key,
    last_seq    bigint  not null default 1,
    updated_at  timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

create table tailrace.limit_outbox (
    run_id      text    primary key,
    next_seq    bigint  not null default 1,
    updated_at  timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

create table tailrace.limit_events (
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
    primary key (run_id, seq)
) with (fillfactor = 50);
