"""STORE: Parquet files by event hour, behind a manifest."""
