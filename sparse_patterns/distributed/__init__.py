"""One sequence over many processes: `attention` on stretches, and `traffic` between them."""

from sparse_patterns.distributed.attention import attention
from sparse_patterns.distributed.traffic import Traffic, traffic

__all__ = ["Traffic", "attention", "traffic"]
