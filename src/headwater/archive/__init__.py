"""PROCESS: decided events of the log become lake files; the manifest makes them visible."""
