"""The rows: a module each, with `PROTOCOL` and `measure(arm, seed, folder)`."""
