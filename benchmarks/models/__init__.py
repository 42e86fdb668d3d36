"""Whole models: encoders, language models, and both compiled."""
