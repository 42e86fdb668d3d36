"""Torch's own attention on the CPU, without a mask, with its causal flag, or with a mask."""
