"""State: what `work` remembers between batches; here the index that decides what is a copy."""
