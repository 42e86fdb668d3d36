"""Patterns for Hugging Face models: `set_pattern(model, pattern)`."""

from sparse_patterns.huggingface.attach import set_pattern
from sparse_patterns.huggingface.given import batch_masks
from sparse_patterns.huggingface.interface import register

__all__ = ["batch_masks", "register", "set_pattern"]
