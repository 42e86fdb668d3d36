"""The tile form of a plan: runs of equal tiles at equal distances."""
