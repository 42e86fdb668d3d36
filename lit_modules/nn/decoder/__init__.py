"""The decoder: a causal transformer with segment memory and a rolling cache."""
