"""Kernels: ways to run a plan. None imports another; `kernels.dispatch` lists them all."""
