"""Durable truth: Postgres.  All SQL of Tailrace lies in this room."""
