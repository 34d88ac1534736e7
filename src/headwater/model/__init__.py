"""What things mean: events, batches, values, metrics, windows, aggregate states. No I/O."""
