"""Leaves that turn happenings into log lines and metrics."""
