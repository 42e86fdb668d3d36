"""Networks on `sparse_patterns.attention`, free of Lightning."""
