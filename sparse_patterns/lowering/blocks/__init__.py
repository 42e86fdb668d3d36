"""The block form of a plan: which square blocks are visible, and the masks inside."""
