"""Durable, resumable event streams for AI-agent runs, on Postgres."""

__version__ = "0.1.0"
