"""Patterns as pictures and as text."""
