"""Small patterns of every preset and of what depends on positions, for tests of packed rows."""

from typing import Any

import sparse_patterns as sp

SMALL: dict[str, dict[str, Any]] = {
    "bigbird": {"block": 4, "per_row": 1, "global_tokens": 2},
    "local-global": {"window": 4, "every": 2},
    "longformer": {"window": 4},
    "longformer-causal": {"window": 3, "dilation": 2, "dilated_heads": 1},
    "mistral": {"window": 4},
    "sparse-transformer-fixed": {"block": 4, "columns": 1},
    "sparse-transformer-strided": {"stride": 3},
    "streaming": {"window": 3, "sinks": 2},
    "transformer-xl": {"segment": 3, "memory": 2},
}
PATTERNS: dict[str, sp.Pattern] = {
    **{name: sp.get(name, **SMALL.get(name, {})) for name in sp.names()},
    "sinks": sp.Window(2, 0) | sp.Global((0,), rows=False),
    "from the end": sp.Window(1, 1) | sp.Global((-1,)),
    "random": sp.RandomBlocks(3, 1, seed=2) | sp.Window(0, 0),
    "summary": sp.Summary(4, 1) & sp.Causal(),
    "not the first": ~sp.Global((0,)) & sp.Window(3, 3),
    "rule": sp.Rule(lambda q, k, head: (q + k) % 3 == head % 3, name="thirds"),
    "of one part only": (sp.Window(2, 2) & sp.SameDocument()) | sp.Global((1,)),
    "per head": sp.PerHead(sp.LocalBlock(3), sp.Window(2, 2)),
}


def takes(pattern: sp.Pattern, kind: type) -> bool:
    return any(isinstance(part, kind) for part in pattern.walk())
