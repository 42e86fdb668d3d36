"""What every training run needs: optimizer, schedules, stages, sums over processes."""
