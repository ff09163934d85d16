"""The loops: background duties, and the worker that executes runs.  The only room with a ``while True``."""
