"""Whether auto takes the fastest kernel, and the time of each kernel against the length."""
