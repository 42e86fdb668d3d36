"""Every public callable: how it is called rightly, and what each of its arguments does not take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import sparse_patterns as sp
from tests.contracts.arguments.wrong import (
    BATCH,
    CAUSAL,
    CONFIG,
    DEVICE,
    DTYPE,
    FLAG,
    FLOATS,
    HUGE,
    KERNEL,
    MASK,
    MASKS,
    NAME,
    NESTED,
    NUMBER,
    OTHER,
    PATTERN,
    PROBABILITY,
    REAL,
    SCALE,
    SEGMENTS,
    SPARSE,
    Wrong,
    X,
    integers,
)


@dataclass(frozen=True)
class Case:
    """A public callable: how it is called rightly, and what each argument does not take."""

    call: Callable[..., Any]
    right: dict[str, Any]
    wrong: dict[str, Wrong]
    words: dict[str, str] = field(default_factory=dict)


def cache(pattern: sp.Pattern = CAUSAL) -> sp.KeyValueCache:
    """Return a cache that saw a first call."""
    made = sp.KeyValueCache(pattern, heads=2)
    made.attend(X, X, X)
    return made


def rule(result: Any) -> sp.Rule:
    """Return a rule that gives the same for any positions."""
    return sp.Rule(lambda q, k, head: result)


TABLE = Wrong(
    (3, True, "alibi", [[0.0] * 3] * 2, np.zeros((2, 3)), torch.zeros(2, 3).long(), NESTED, SPARSE),
    (torch.zeros(3), torch.zeros(2, 4), torch.zeros(3, 3), torch.zeros(2, 0)),
)
SOFTCAP = REAL.but(None).also(0, -1.0)
SCORES = {
    "softcap": SOFTCAP,
    "sinks": Wrong(
        (0.0, True, "x", [0.0, 0.0], np.zeros(2), torch.zeros(2).long(), NESTED, SPARSE),
        (torch.zeros(3), torch.zeros(2, 1), torch.tensor(0.0)),
    ),
    "distance_bias": TABLE,
}
SHAPE = {"pattern": CAUSAL, "q_len": 6, "heads": 2}
PLAN = {
    "pattern": PATTERN.also(sp.Window((1, 2, 3), 0), sp.PerLayer(CAUSAL, CAUSAL)),
    "q_len": integers(0),
    "kv_len": integers(0).but(None),
    "heads": integers(1),
    "layer": integers(0).also(1),
    "layers": integers(1),
    "q_offset": integers().but(None),
}
PICTURE = {
    "pattern": PATTERN,
    "length": integers(1).but(None),
    "heads": integers(1).but(None),
    "layers": integers(1).but(None),
    "scale": REAL.but(None).also(0, 1.5),
    "global_mask": Wrong((True, "x", MASK[0].long(), NESTED, SPARSE), (MASK,)),
    "segment_ids": Wrong((True, "x", MASK[0], NESTED, SPARSE), (MASK.long(),)),
}
WORDS = {"pattern": ""}
"""A pattern that does not fit is named by its own part, such as "window left"."""

CASES: dict[str, Case] = {
    "attention": Case(
        sp.attention,
        {"q": X, "k": X, "v": X, "pattern": BATCH | sp.Global((0,)), "segment_ids": MASK.long()},
        {
            "q": FLOATS,
            "k": FLOATS.also(X[:, :, :, :3]),
            "v": FLOATS.also(X[:, :, :5], X.double()),
            "pattern": PATTERN.also(sp.Window((1, 2, 3), 0) | BATCH),
            "layer": PLAN["layer"],
            "layers": PLAN["layers"],
            "key_mask": MASKS,
            "global_mask": MASKS,
            "global_qkv": Wrong(
                ((), (X, X), X, 3, "qkv", (X, X, None), (X, X, NESTED), (X.long(),) * 3),
                ((X[:, :, :5], X, X), (X.double(),) * 3),
            ),
            "segment_ids": SEGMENTS.also(None),
            "q_offset": PLAN["q_offset"],
            "scale": SCALE,
            "dropout_p": PROBABILITY,
            "kernel": KERNEL,
            "return_lse": FLAG,
            **SCORES,
        },
        WORDS,
    ),
    "alibi": Case(
        sp.alibi,
        {"heads": 2, "max_distance": 3},
        {"heads": integers(1), "max_distance": integers(0)},
    ),
    "t5_bias": Case(
        sp.t5_bias,
        {"weight": torch.zeros(8, 2), "max_distance": 3, "bidirectional": True},
        {
            "weight": Wrong(
                (None, 3, True, "x", [[0.0] * 2] * 8, np.zeros((8, 2)), NESTED, SPARSE),
                (torch.zeros(8), torch.zeros(8, 2, 1)),
            ),
            "max_distance": integers(0),
            "bidirectional": FLAG,
            "max_bucket_distance": integers(1),
        },
    ),
    "dense_mask": Case(
        sp.dense_mask,
        {**SHAPE, "pattern": BATCH, "segment_ids": MASK.long()},
        {
            **PLAN,
            "pattern": PATTERN,
            "key_mask": MASKS,
            "global_mask": MASKS,
            "segment_ids": SEGMENTS.also(None),
            "device": DEVICE,
        },
        WORDS,
    ),
    "plan": Case(sp.plan, SHAPE, {**PLAN, "head_dim": integers(1)}, WORDS),
    "explain": Case(
        sp.explain,
        SHAPE,
        {
            **PLAN,
            "head_dim": integers(1),
            "batch": integers(0),
            "kv_heads": integers(1).but(None).also(3),
            "dtype": DTYPE.also().but(),
            "device": DEVICE,
            **dict.fromkeys(
                ("key_mask", "global_mask", "global_qkv", "segment_ids", "needs_grad"), FLAG
            ),
            **dict.fromkeys(("softcap", "sinks", "distance_bias", "bias_grad"), FLAG),
            "dropout_p": PROBABILITY,
            "kernel": KERNEL,
        },
        WORDS,
    ),
    "draw": Case(
        sp.draw,
        {"pattern": BATCH, "length": 6},
        {**PICTURE, "title": NAME.but(None), "path": Wrong((3, True, ["x"]))},
    ),
    "show": Case(
        sp.show,
        {"pattern": BATCH, "length": 6},
        {
            **PICTURE,
            "layer": integers(0).also(4),
            "width": integers(8).but(None),
            "ascii": FLAG,
            "file": Wrong((3, True, "out.txt")),
        },
    ),
    "describe": Case(sp.describe, {}, {"name": NAME.also("nope")}, {"name": "pattern"}),
    "get": Case(
        lambda name="mistral", fields=4: sp.get(name, window=fields),
        {},
        {"name": NAME.also("nope"), "fields": NUMBER.also(0)},
        {"name": "pattern", "fields": "window"},
    ),
    "register": Case(sp.register, {}, {"name": NAME.also("No Name", "")}),
    "from_config": Case(
        sp.from_config,
        {"config": "causal"},
        {"config": CONFIG, "import_rules": FLAG},
        {"config": ""},
    ),
    "to_config": Case(
        sp.to_config, {}, {"pattern": PATTERN.also(sp.Rule(lambda q, k, h: q < k))}, WORDS
    ),
    "scale_windows": Case(
        sp.scale_windows,
        {"pattern": CAUSAL, "factor": 2.0},
        {"pattern": PATTERN, "factor": REAL.also(0, -1, 1e10)},
        {"pattern": "", "factor": "factor"},
    ),
    "linear": Case(sp.linear, {"start": 1, "stop": 2}, {"start": integers(), "stop": integers()}),
    "geometric": Case(
        sp.geometric, {"start": 1, "stop": 2}, {"start": integers(1), "stop": integers(1)}
    ),
    "spread": Case(
        lambda values=1: sp.spread(1, values),
        {},
        {"values": Wrong((None, "1", 1.5, True, (1.5,), *OTHER), (HUGE, ()))},
        {"values": "spread value"},
    ),
    "steps": Case(
        lambda points=(1, 1): sp.steps((1, 1), points),
        {},
        {
            "points": Wrong(
                (None, 3, "12", ("1", 1), (1, 1.5), (1, True)), ((1,), (1, 0), (HUGE, 1))
            )
        },
        {"points": "steps"},
    ),
    "sparsify": Case(
        lambda module=None, pattern=CAUSAL, ignore_need_weights=False: sp.sparsify(
            torch.nn.MultiheadAttention(4, 2) if module is None else module,
            pattern,
            ignore_need_weights=ignore_need_weights,
        ),
        {},
        {
            "module": Wrong((3, "x", True, torch.nn.Linear), (torch.nn.Linear(2, 2),)),
            "pattern": CONFIG,
            "ignore_need_weights": FLAG,
        },
        {"module": "", "pattern": ""},
    ),
    "BatchGlobal": Case(sp.BatchGlobal, {}, {"rows": FLAG}),
    "BlockTable": Case(
        sp.BlockTable,
        {"table": ("10", "11"), "block": 4},
        {
            "table": Wrong((None, 3, True, "10", [3], [[2]], [["x"]]), (["1", "10"],)),
            "block": integers(1),
        },
    ),
    "Complement": Case(sp.Complement, {}, {"part": PATTERN}, {"part": "Complement"}),
    "Global": Case(
        sp.Global,
        {"tokens": (0,)},
        {
            "tokens": Wrong((None, 3, "3", (1.0,), (True,), ("0",)), ((HUGE,), (-HUGE,))),
            "rows": FLAG,
        },
        {"tokens": "token"},
    ),
    "Intersection": Case(
        sp.Intersection,
        {},
        {"parts": Wrong((None, 3, "x", (CAUSAL, 3)), ((),))},
        {"parts": "Intersection"},
    ),
    "Union": Case(
        sp.Union, {}, {"parts": Wrong((None, 3, "x", (CAUSAL, 3)), ((),))}, {"parts": "Union"}
    ),
    "PerHead": Case(
        lambda parts=CAUSAL, rest=False: sp.PerHead(CAUSAL, parts, rest=rest),
        {},
        {"parts": PATTERN, "rest": FLAG},
        {"parts": "PerHead"},
    ),
    "PerLayer": Case(
        lambda parts=CAUSAL, repeat=False: sp.PerLayer(CAUSAL, parts, repeat=repeat),
        {},
        {"parts": PATTERN, "repeat": FLAG},
        {"parts": "PerLayer"},
    ),
    "GridWindow": Case(
        sp.GridWindow,
        {"shape": (2, 3), "radius": 1},
        {
            "shape": Wrong(("0", None, 1.5, True, ("2", 3), *OTHER), ((), (0, 3), (1, 1, 1, 1))),
            "radius": Wrong(("0", None, 1.5, True, torch.tensor(1), ("1", 1), *OTHER), (-1, (1,))),
            "dilation": Wrong(("0", None, 1.5, True, torch.tensor(1), *OTHER), (0, (1, 0))),
            "prefix": integers(0),
        },
    ),
    "LocalBlock": Case(sp.LocalBlock, {}, {"size": integers(1)}),
    "RandomBlocks": Case(
        sp.RandomBlocks,
        {"block": 1, "per_row": 1},
        {"block": integers(1), "per_row": integers(0), "seed": integers()},
    ),
    "Rule": Case(
        sp.Rule,
        {"fn": lambda q, k, head: q == k},
        {"fn": Wrong((None, 3, "x", lambda: 0, lambda q, k: q, max)).but(max), "name": NAME},
    ),
    "Strided": Case(sp.Strided, {}, {"stride": integers(1)}),
    "Summary": Case(
        sp.Summary,
        {"size": 4, "columns": 2},
        {"size": integers(1), "columns": integers(1).also(5)},
    ),
    "Window": Case(
        sp.Window,
        {"left": 1, "right": 1},
        {"left": NUMBER, "right": NUMBER, "dilation": NUMBER.also(0)},
    ),
    "Window.around": Case(
        sp.Window.around, {"width": 2}, {"width": NUMBER.also(3), "dilation": NUMBER.also(0)}
    ),
    "Window.before": Case(
        sp.Window.before, {"left": 2}, {"left": NUMBER, "dilation": NUMBER.also(0)}
    ),
    "KeyValueCache": Case(
        sp.KeyValueCache,
        {"pattern": CAUSAL, "heads": 2},
        {
            "pattern": PATTERN.also(sp.Window(1, 1), BATCH),
            **{name: PLAN[name] for name in ("heads", "layer", "layers")},
        },
        WORDS,
    ),
    "KeyValueCache.attend": Case(
        lambda **given: cache().attend(**given),
        {"q": X, "k": X, "v": X},
        {
            "q": FLOATS,
            "k": FLOATS,
            "v": FLOATS.also(X.double()),
            "scale": SCALE,
            "kernel": KERNEL,
            **SCORES,
        },
    ),
    "KeyValueCache.reorder": Case(
        lambda index: cache().reorder(index),
        {},
        {
            "index": Wrong(
                (None, [0], 0, True, "0", np.zeros(1, int), NESTED, SPARSE),
                (torch.tensor(0), torch.tensor([1]), torch.tensor([0.0]), torch.tensor([True])),
            )
        },
    ),
    "SparseSelfAttention": Case(
        sp.SparseSelfAttention,
        {"embed_dim": 8, "num_heads": 2, "pattern": CAUSAL},
        {
            "embed_dim": integers(1).also(7),
            "num_heads": integers(1).also(3),
            "pattern": CONFIG,
            "kv_heads": integers(1).but(None).also(3),
            "layer": PLAN["layer"],
            "layers": PLAN["layers"],
            "bias": FLAG,
            "dropout": PROBABILITY.also(1.0),
            "global_projections": FLAG,
            "output_projection": FLAG,
            "kernel": KERNEL,
            "softcap": SOFTCAP,
            "sinks": FLAG,
            "distance_bias": TABLE,
            "device": DEVICE,
            "dtype": DTYPE,
        },
        {"pattern": "", "embed_dim": "embed_dim", "num_heads": "heads"},
    ),
    "SparseSelfAttention.forward": Case(
        lambda **given: sp.SparseSelfAttention(8, 2, BATCH)(**given),
        {"x": torch.zeros(1, 6, 8), "segment_ids": MASK.long()},
        {
            "x": Wrong(FLOATS.types, (X, torch.zeros(1, 6, 7))),
            "key_mask": MASKS,
            "global_mask": MASKS,
            "segment_ids": SEGMENTS.also(None),
            "cache": Wrong((3, "x", True, {})),
        },
    ),
}
