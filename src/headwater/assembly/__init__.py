"""The only place that picks implementations: settings, the registry of adapters, the processes and their supervisor."""
