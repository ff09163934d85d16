"""Helpers for testing agents on a real Postgres; with pytest, the plugin's fixtures find and prepare one.

The helpers work on the database that the settings name.  The fixture ``tailrace_database`` names a fresh one.
"""

from tailrace.testing.helpers import await_outbox_flush, await_run, await_stream_completion

__all__ = ["await_outbox_flush", "await_run", "await_stream_completion"]
