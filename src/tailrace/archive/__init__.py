"""The archive: finished runs as Parquet in a folder or an object store, and back."""
