-- Put rows of the run $2 back as they were; rows that are there stay.
with turn as materialized (
    select turn.holder
    from tailrace.archive_turn as turn
    where turn.holder = $1 and turn.until > clock_timestamp()
    for no key update -- nobody takes the turn before this commit
), inserted as (
    insert into tailrace.run_events (
        run_id, seq, ts, type, v, source, name, fn, data, epoch, published_at, created_at
    )
    select
        $2, event.seq, event.ts, event.type, event.v, event.source, event.name, event.fn, event.data::json, event.epoch,
        timestamptz 'epoch' + event.published_us * interval '1 microsecond',
        timestamptz 'epoch' + event.created_us * interval '1 microsecond'
    from turn
    cross join unnest(
        $3::bigint[], $4::bigint[], $5::text[], $6::smallint[], $7::text[], $8::text[], $9::text[], $10::text[],
        $11::integer[], $12::bigint[], $13::bigint[]
    ) as event (seq, ts, type, v, source, name, fn, data, epoch, published_us, created_us)
    on conflict (run_id, seq) do nothing -- the terminal event never left
    returning seq
)
select (select count(*) from turn) as held, (select count(*) from inserted) as inserted
