"""What kernels of a GPU are expected to do, as data: their speed by card, and their tolerances."""
