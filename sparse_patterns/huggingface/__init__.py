"""Patterns for Hugging Face models: `set_pattern(model, pattern)`."""

from sparse_patterns.huggingface.attach import register, set_pattern

__all__ = ["register", "set_pattern"]
