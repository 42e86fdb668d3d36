"""Figures of Hugging Face models with a pattern."""
