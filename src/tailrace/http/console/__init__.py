"""The web console: a page that shows runs, and is a client of the HTTP API like any other."""
