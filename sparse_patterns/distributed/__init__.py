"""One sequence over many processes: `attention` on stretches, and `traffic` between them."""

from sparse_patterns.distributed.counting import Traffic, traffic
from sparse_patterns.distributed.functional import attention

__all__ = ["Traffic", "attention", "traffic"]
