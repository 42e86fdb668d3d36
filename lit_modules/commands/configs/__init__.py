"""The configurations that are shipped, found by name: `lm/stdlib` is the file `lm/stdlib.yaml`."""
