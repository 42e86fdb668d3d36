"""Every argument of every public function, driven with wrong types and values.

Each gives one error of this package, TypeError for a type and ValueError for a value, that names
the argument and what was given. A new public name or argument fails until it has a row here.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparse_patterns as sp

PACKAGE = Path(sp.__file__).parent
HUGE = 1 << 70
X = torch.zeros(1, 2, 6, 4)
MASK = torch.ones(1, 6, dtype=torch.bool)
CAUSAL = sp.Window(2, 0)
BATCH = sp.BatchGlobal() | sp.SameDocument()
NESTED = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)], layout=torch.jagged)
SPARSE = torch.zeros(2, 3).to_sparse()
OTHER = (object(), b"1", {1: 2}, 1j)


@dataclass(frozen=True)
class Wrong:
    """What an argument does not take: values of another type, and of a right one."""

    types: tuple[Any, ...] = ()
    values: tuple[Any, ...] = ()

    def but(self, *allowed: Any) -> Wrong:
        """Return the same without values that an argument does take."""

        def left(given: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(x for x in given if not any(x is one for one in allowed))

        return Wrong(left(self.types), left(self.values))

    def also(self, *values: Any) -> Wrong:
        """Return the same with further wrong values."""
        return Wrong(self.types, self.values + values)


def integers(minimum: int | None = None) -> Wrong:
    """Return what no integer of at least `minimum` is."""
    values = (HUGE, -HUGE) if minimum is None else (HUGE, minimum - 1)
    return Wrong(("0", None, 1.0, 1.5, True, [1], (1,), torch.tensor(1), *OTHER), values)


NUMBER = integers(0).but()
NUMBER = Wrong(
    ("0", None, 1.5, True, torch.tensor(1), [1.5], (True,), ["1"], *OTHER), NUMBER.values
)
FLAG = Wrong((0, 1, "yes", None, torch.tensor(True), np.True_, *OTHER))
REAL = Wrong(("x", None, True, [1.0], *OTHER), (float("nan"), float("inf"), -float("inf")))
PROBABILITY = REAL.also(-0.1, 1.1)
PATTERN = Wrong(("causal", None, 3, True, sp.Window, X, [CAUSAL], *OTHER))
NAME = Wrong((None, 3, True, ["mistral"], *OTHER[:1]))
FLOATS = Wrong(
    (
        None,
        [0.0],
        3,
        True,
        "x",
        np.zeros((1, 2, 6, 4)),
        X.long(),
        X.bool(),
        X.cfloat(),
        NESTED,
        SPARSE,
    ),
    (X[0], X[..., None]),
)
MASKS = Wrong(
    (True, [[True] * 6], "x", np.ones((1, 6), bool), MASK.float(), MASK.long(), NESTED, SPARSE)
)
MASKS = MASKS.also(MASK[0], MASK[:, :5], MASK[None])
SEGMENTS = Wrong(
    (True, [[0] * 6], MASK, MASK.float(), NESTED, SPARSE), (MASK[0].long(), MASK[:, :5].long())
)
SCALE = REAL.but(None)
SCALE = Wrong(
    (*SCALE.types, torch.tensor(1), torch.tensor(True), torch.tensor(1j)),
    (*SCALE.values, torch.ones(2), torch.tensor(float("nan")), torch.tensor(float("inf"))),
)
KERNEL = NAME.also("nope", "")
DEVICE = Wrong((3, True, [1], *OTHER), ("nope", ""))
DTYPE = Wrong(("float32", 3, True, float), (torch.int64, torch.bool, torch.complex64))
CONFIG = Wrong(
    (None, 3, True, [1], {"window": 3}), ("nope", {"nope": 1}, {}, {"window": {"left": -1}})
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
NOT_CALLED_BY_USERS = ("Plan", "Pattern", "Schedule")
"""What `plan` returns, and the bases of patterns and schedules, which take nothing."""


def parameters() -> Iterator[tuple[str, list[str]]]:
    """Yield every public callable with the names of its arguments."""
    methods: tuple[tuple[type, str], ...] = (
        (sp.Window, "around"),
        (sp.Window, "before"),
        (sp.KeyValueCache, "attend"),
        (sp.KeyValueCache, "reorder"),
        (sp.SparseSelfAttention, "forward"),
    )
    found = {name: getattr(sp, name) for name in sp.__all__}
    found |= {f"{owner.__name__}.{name}": getattr(owner, name) for owner, name in methods}
    for name, one in found.items():
        if callable(one) and name not in NOT_CALLED_BY_USERS:
            yield name, [key for key in inspect.signature(one).parameters if key != "self"]


def test_every_argument_has_a_row() -> None:
    wanted = {name: sorted(arguments) for name, arguments in parameters() if arguments}
    assert {name: sorted(case.wrong) for name, case in CASES.items()} == wanted


@pytest.mark.parametrize("name", CASES)
def test_the_right_call_is_taken(name: str) -> None:
    case = CASES[name]
    right = {"size": 4, "stride": 4, "part": CAUSAL, "parts": (CAUSAL,), "pattern": CAUSAL}
    right |= {"name": "a-name" if name == "register" else "mistral", "index": torch.tensor([0])}
    needed = [
        key
        for key, one in inspect.signature(case.call).parameters.items()
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD and key not in case.right
    ]
    case.call(**case.right, **{key: right[key] for key in needed})


def combinations() -> Iterator[Any]:
    """Yield every wrong value of every argument."""
    for name, case in CASES.items():
        for argument, wrong in case.wrong.items():
            for error, given in ((TypeError, wrong.types), (ValueError, wrong.values)):
                for index, value in enumerate(given):
                    label = f"{name}-{argument}-{error.__name__}-{index}"
                    yield pytest.param(case, argument, value, error, id=label)


@pytest.mark.parametrize(("case", "argument", "value", "error"), list(combinations()))
def test_wrong_arguments(case: Case, argument: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises((TypeError, ValueError, Exception)) as caught:
        case.call(**{**case.right, argument: value})
    message, place = str(caught.value), traceback.extract_tb(caught.value.__traceback__)[-1]
    assert type(caught.value) is error, message
    assert PACKAGE in Path(place.filename).parents, f"raised by {place.filename}: {message}"
    assert (place.line or "").startswith("raise"), f"raised by {place.line}: {message}"
    assert case.words.get(argument, argument) in message
    assert is_shown(value, message), message


def is_shown(value: Any, message: str) -> bool:
    """Return whether a message says what the value is, or what of it is wrong."""
    if isinstance(value, torch.Tensor):
        if value.is_nested:
            return "nested" in message
        told = {str(value.dtype), str(value.layout), str(tuple(value.shape))}
        if value.numel() == 1 and value.layout == torch.strided:
            told |= {str(value.item()), str(value.tolist())}
        return any(text in message for text in told)
    if isinstance(value, sp.Pattern):
        parts = {part for part in value.walk()}
        names = {
            text for part in parts for text in (type(part).__name__, getattr(part, "name", ""))
        }
        return any(name and name.lower() in message.lower() for name in names)
    if isinstance(value, tuple | list | dict):
        told = {repr(value), f"{len(value)} values"}
        if not value:
            return any(text in message for text in (*told, "empty", "none"))
        return any(text in message for text in told) or any(is_shown(x, message) for x in value)
    told = {repr(value), str(value), type(value).__name__, repr(type(value))}
    return any(text in message for text in told)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, TypeError, "rule '<lambda>' must return a bool tensor, got None"),
        (torch.ones(6, 6), TypeError, r"must return a bool tensor, got torch\.float32 tensor"),
        (torch.ones(5).bool(), ValueError, r"against k, \(6, 6\), got shape \(5,\)"),
        (torch.ones(3, 6, 6).bool(), ValueError, r"against k, \(6, 6\), got shape \(3, 6, 6\)"),
    ],
)
def test_what_a_rule_returns(result: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sp.dense_mask(rule(result), 6, heads=2)
