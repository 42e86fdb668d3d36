"""Modules on `sparse_patterns.attention`, and the rolling key/value cache."""
