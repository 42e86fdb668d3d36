"""The fused form of a plan: disjoint partial attentions that library operators can run."""
