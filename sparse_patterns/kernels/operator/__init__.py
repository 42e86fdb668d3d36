"""Attention as an operator of torch: what it is given, and its passes by the chosen kernel."""
