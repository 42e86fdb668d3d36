"""Kernels: ways to run a plan. None imports another; `sparse_patterns.dispatch` knows them all."""
