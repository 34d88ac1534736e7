"""For those who write adapters, and for our own tests: clock, faults, a conformance suite for each port."""
