"""Implementations of the event log, one module a technology."""
