"""Text for masked language models."""
