"""What a pattern means: atoms, algebra, schedules, binding, presets, the oracle."""
