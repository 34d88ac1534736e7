"""Shipped for those who write adapters and for our own tests: a manual clock, fault wrappers, a conformance suite a port."""
