"""Sparse attention patterns as composable specs, run exactly and fast on any device.

>>> import sparse_patterns as sp
>>> pattern = sp.Window(256, 256) | sp.Global((0,))
"""

from sparse_patterns.algebra import (
    Complement,
    Intersection,
    PerHead,
    PerLayer,
    Union,
    scale_windows,
)
from sparse_patterns.attention import attention
from sparse_patterns.cache import KeyValueCache
from sparse_patterns.codec import from_config, to_config
from sparse_patterns.dispatch import explain
from sparse_patterns.draw import draw
from sparse_patterns.module import SparseSelfAttention
from sparse_patterns.oracle import dense_mask
from sparse_patterns.patterns import (
    BatchGlobal,
    BlockTable,
    Causal,
    Full,
    Global,
    LocalBlock,
    Pattern,
    RandomBlocks,
    Rule,
    SameDocument,
    Strided,
    Summary,
    Window,
)
from sparse_patterns.plan import Plan, plan
from sparse_patterns.presets import describe, get, names, register
from sparse_patterns.schedules import Schedule, geometric, linear, spread, steps
from sparse_patterns.show import show
from sparse_patterns.sparsify import sparsify

__all__ = [
    "BatchGlobal",
    "BlockTable",
    "Causal",
    "Complement",
    "Full",
    "Global",
    "Intersection",
    "KeyValueCache",
    "LocalBlock",
    "Pattern",
    "PerHead",
    "PerLayer",
    "Plan",
    "RandomBlocks",
    "Rule",
    "SameDocument",
    "Schedule",
    "SparseSelfAttention",
    "Strided",
    "Summary",
    "Union",
    "Window",
    "attention",
    "dense_mask",
    "describe",
    "draw",
    "explain",
    "from_config",
    "geometric",
    "get",
    "linear",
    "names",
    "plan",
    "register",
    "scale_windows",
    "show",
    "sparsify",
    "spread",
    "steps",
    "to_config",
]
