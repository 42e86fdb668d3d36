"""What a run does besides training: stages, checkpoints, logs, progress, pictures."""
