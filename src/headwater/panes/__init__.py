"""STORE: live windows, the decisions about copies, and the position up to which they were made."""
