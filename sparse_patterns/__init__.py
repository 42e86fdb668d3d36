"""Sparse attention patterns as composable specs, run exactly and fast on any device.

>>> import sparse_patterns as sp
>>> pattern = sp.Window(256, 256) | sp.Global((0,))
"""

from importlib import metadata as _metadata

from sparse_patterns import distributed
from sparse_patterns.config.codec import from_config, to_config
from sparse_patterns.functional import attention
from sparse_patterns.kernels.dispatch import explain
from sparse_patterns.lowering.plan import Plan, plan
from sparse_patterns.nn.kv_cache import KeyValueCache
from sparse_patterns.nn.self_attention import SparseSelfAttention
from sparse_patterns.nn.sparsify import sparsify
from sparse_patterns.spec.algebra import PerHead, PerLayer, scale_windows
from sparse_patterns.spec.atoms import (
    BatchGlobal,
    BlockTable,
    Causal,
    Global,
    LocalBlock,
    RandomBlocks,
    Rule,
    SameDocument,
    Strided,
    Summary,
    Window,
)
from sparse_patterns.spec.base import Complement, Full, Intersection, Pattern, Union
from sparse_patterns.spec.grids import GridWindow
from sparse_patterns.spec.oracle import dense_mask
from sparse_patterns.spec.presets import describe, get, names, register
from sparse_patterns.spec.schedules import Schedule, geometric, linear, spread, steps
from sparse_patterns.spec.scores import alibi, t5_bias
from sparse_patterns.viz.figure import draw
from sparse_patterns.viz.notebook import to_html
from sparse_patterns.viz.text import show

__all__ = [
    "BatchGlobal",
    "BlockTable",
    "Causal",
    "Complement",
    "Full",
    "Global",
    "GridWindow",
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
    "alibi",
    "attention",
    "dense_mask",
    "describe",
    "distributed",
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
    "t5_bias",
    "to_config",
]

# What a pattern means does not depend on how it is shown, so the two are joined here.
Pattern._repr_html_ = to_html  # type: ignore[method-assign,assignment]

try:
    __version__ = _metadata.version("sparse-patterns")
except _metadata.PackageNotFoundError:
    # A checkout on the path, not installed: pyproject.toml alone has the number.
    __version__ = "unknown"
