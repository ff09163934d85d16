"""``make test-faults``: real processes, real faults, and a count of what every client received."""
