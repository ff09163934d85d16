-- The archive: where the events of finished runs lie once they have left Postgres (docs/adr/0019).
--
-- `runs.archived_at` says that an archive copy exists, so that rows below the terminal event may be absent. The index
-- finds what is to be archived without passing all that is. An object's row is there before the object is, so that no
-- object is unaccounted for. One process at a time changes any of this: the holder of the turn.

alter table tailrace.runs add column archived_at timestamptz;
create index runs_to_archive on tailrace.runs (finished_at, id) where finished_at is not null and archived_at is null;

create table tailrace.archive_objects (
    name        text        primary key,
    state       text        not null default 'writing',
    size_bytes  bigint,
    events      bigint,
    created_at  timestamptz not null default clock_timestamp(),
    changed_at  timestamptz not null default clock_timestamp(),
    constraint archive_objects_state_is_legal check (state in ('writing', 'stored', 'doomed')),
    constraint archive_objects_size_when_stored check (state <> 'stored' or (size_bytes is not null and events is not null))
);
create index archive_objects_unstored on tailrace.archive_objects (name) where state <> 'stored';

-- The event seq of a run is the row first_row + seq - 1 of its object, counted from 0.
create table tailrace.run_archive (
    run_id       text        primary key references tailrace.runs (id),
    object       text        not null references tailrace.archive_objects (name),
    first_row    bigint      not null,
    events       bigint      not null,
    sha256       bytea       not null,
    trimmed      boolean     not null default false,
    restored_at  timestamptz,
    constraint run_archive_rows_are_legal check (first_row >= 0 and events >= 1)
);
create index run_archive_of_object on tailrace.run_archive (object);
create index run_archive_untrimmed on tailrace.run_archive (run_id) where not trimmed;

create table tailrace.archive_turn (
    one         boolean     primary key default true,
    holder      text,
    until       timestamptz not null default clock_timestamp(),
    constraint archive_turn_is_one check (one)
);
insert into tailrace.archive_turn default values;
