"""The write path: create a run, append its events, publish them."""
