"""Patterns as plain data and back, and as handles of compiled programs."""
