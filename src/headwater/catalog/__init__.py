"""STORE: control (projects, keys, metrics, jobs, audit log) and the manifest (files, revisions, offsets)."""
