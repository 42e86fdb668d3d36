"""FlexAttention with block masks made from the plan."""
