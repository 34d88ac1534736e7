"""Implementations of the catalog, one module a technology and half."""
