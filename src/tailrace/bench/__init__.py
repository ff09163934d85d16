"""Tailrace measured on the machine and the database that it is to run on: ``tailrace bench`` and ``make bench``.

    catalogue   every row by name, with its goals
    row         what a row, a figure and a goal are; pure
    runner      measures a row beside its references, in turn, pair by pair
    report      the table, the JSON document, the Markdown of docs/performance.md
    chart       the bars, as SVG
    place       the schema that a measurement writes to, made for it and removed after it
    children    processes of a measurement, ended with it; what they cost in CPU and memory
    server      ``tailrace serve`` as such a process
    agents      the agents that make load, served by that process
    load        the client that counts and times, a process of its own
    limits      the raw Postgres statements that the rows are compared with

Each other module is one row.
"""
