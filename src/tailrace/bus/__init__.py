"""Who wants to know now.  The bus is a hint: losing every message may cost latency, never an event."""
