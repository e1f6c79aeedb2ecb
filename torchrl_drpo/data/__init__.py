"""Logs: schema, Parquet, replay buffers, samplers."""
