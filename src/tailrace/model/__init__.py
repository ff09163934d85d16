"""Words: what a run, an event and a position are.  No I/O, no clock."""
