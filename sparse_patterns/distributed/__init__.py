"""One sequence over many processes: `attention` on stretches, and `traffic` between them.

Inside of `split_over`, the modules of the library attend over the stretches of all processes.
"""

from sparse_patterns.distributed.context.split import Split, current_split, split_over, undivided
from sparse_patterns.distributed.counting import Traffic, traffic
from sparse_patterns.distributed.functional import attention

__all__ = [
    "Split",
    "Traffic",
    "attention",
    "current_split",
    "split_over",
    "traffic",
    "undivided",
]
