"""The subcommands of `sparse-patterns`, one a file."""
