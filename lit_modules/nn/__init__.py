"""Networks on `sparse_patterns.attention`, without Lightning."""
