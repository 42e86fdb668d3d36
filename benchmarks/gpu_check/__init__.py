"""Everything about a GPU that can be known in minutes: right, fast, compiled, planned."""
