"""The attention core on an NVIDIA GPU."""
