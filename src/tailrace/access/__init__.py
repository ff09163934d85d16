"""Who may do what: keys, scopes, and the tokens of streams.  Nothing here knows HTTP."""
