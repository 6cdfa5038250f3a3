"""Passes over a chain ``A @ B``, as passes over its factors."""
