"""Loaders that resume where they stopped, and the share of each process."""
