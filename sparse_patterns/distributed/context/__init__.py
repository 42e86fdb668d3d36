"""Modules inside of which a sequence is cut among processes, without saying so in each call."""
