"""Measurements: each module prints its figures and says what it measured. Nothing here runs in tests."""
