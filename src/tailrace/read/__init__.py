"""The read path: attach, backfill, follow, frame."""
