"""The subcommands of `sparse-patterns`, one per file."""
