"""Windows over grids, cut to tiles."""
