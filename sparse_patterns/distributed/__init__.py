"""One sequence over many processes: `attention` on stretches, and `traffic` between them."""

from sparse_patterns.distributed.attention import attention

__all__ = ["attention"]
