"""The tiles kernel: strips of the sequence, batched as strided views."""
