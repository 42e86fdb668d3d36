"""Lightning modules, networks and the command line built on `sparse_patterns`."""
