"""Panes kept by a technology each."""
