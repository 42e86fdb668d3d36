"""The forward pass of the tiled kernel by torch's fused attention for the CPU."""
