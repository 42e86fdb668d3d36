"""Short inputs and first calls."""
