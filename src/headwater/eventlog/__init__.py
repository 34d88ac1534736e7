"""STORE: ordered, replayable batches of events, and beside them the input that was refused."""
