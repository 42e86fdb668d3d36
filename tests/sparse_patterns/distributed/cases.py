"""The calls that are compared with one process: presets, masks, cuts, kernels, random specs."""

import random

import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.spec.algebra import has_global_rows
from tests.random_specs import random_case
from tests.sparse_patterns.distributed.comparing import MASKS, Case

SMALL = {
    "axial": {"shape": (5, 8)},
    "neighborhood": {"shape": (5, 8), "radius": 1},
    "full": {},
    "longformer": {"window": 8},
    "longformer-causal": {"window": 5, "dilation": 2},
    "transformer-xl": {"segment": 6, "memory": 5},
    "sparse-transformer-strided": {"stride": 5},
    "sparse-transformer-fixed": {"block": 6, "columns": 2},
    "bigbird": {"block": 4, "per_row": 2},
    "streaming": {"window": 7, "sinks": 3},
    "mistral": {"window": 9},
    "local-global": {"window": 8, "every": 2},
}
"""Fields of each preset for a sequence of 41 tokens."""

WINDOW = sp.Window(5, 3)
EVERYTHING = sp.Window(4, 2) | sp.Global((0, 1, -1)) | sp.BatchGlobal()


def marks(*tokens: tuple[int, int], length: int = 41) -> Tensor:
    """Return bool `(2, length)`, True at (example, token)."""
    mask = torch.zeros(2, length, dtype=torch.bool)
    for example, token in tokens:
        mask[example, token] = True
    return mask


def padding(start: int, stop: int, length: int = 41) -> Tensor:
    """Return bool `(2, length)`, False in a part of the second example."""
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, start:stop] = False
    return mask


def documents(size: int, length: int = 41) -> Tensor:
    """Return int `(2, length)`: documents of one size, and one document."""
    return torch.stack([torch.arange(length) // size, torch.zeros(length, dtype=torch.int64)])


def presets() -> list[Case]:
    """Return a call of each preset, in the last of two layers."""
    found = []
    for name in sp.names():
        pattern = sp.get(name, **SMALL[name])
        own = {"global_mask": marks((0, 3), (0, 30), (1, 20))} if name == "longformer" else {}
        options = {"layer": 1, "layers": 2}
        found.append(Case(name, pattern, 41, (2, 1), batch=2, masks=own, options=options))
    return found


def masked() -> list[Case]:
    """Return calls with tensors of each example."""
    packed = {"segment_ids": documents(15)}
    tokens = {"global_mask": marks((0, 3), (0, 30), (1, 20), (1, 25))}
    everything = {**tokens, "key_mask": padding(24, 41)}
    return [
        Case(
            "documents across the cut",
            sp.Window(9, 9) & sp.SameDocument(),
            41,
            batch=2,
            masks=packed,
        ),
        Case("documents of any length", sp.Causal() & sp.SameDocument(), 41, batch=2, masks=packed),
        Case("global tokens of examples", EVERYTHING, 41, (2, 3), batch=2, masks=everything),
        Case("their own projections", EVERYTHING, 41, batch=2, masks=everything, separate=True),
        Case(
            "padding", WINDOW | sp.Global((0, 30)), 41, batch=2, masks={"key_mask": padding(7, 35)}
        ),
        Case("all padding", WINDOW, 41, (1, 2), masks={"key_mask": (torch.arange(41) > 20)[None]}),
    ]


def cuts() -> list[Case]:
    """Return calls on stretches of unusual lengths."""
    wide = sp.Window(30, 9, 2)
    return [
        Case("uneven", WINDOW, 40, (1, 3)),
        Case("shorter than the window", wide, 23, (4, 1)),
        Case("a rank without tokens", wide | sp.Global((0,)), 20, (1, 0)),
        Case("one token", WINDOW, 1),
        Case("no token", WINDOW, 0),
        Case("float32", EVERYTHING, 60, (1, 3), 4, 2, dtype=torch.float32, separate=True),
        Case("shared key heads", sp.PerHead(sp.Causal(), WINDOW), 40, (3, 2), 4, 2),
    ]


def kernels() -> list[Case]:
    """Return calls with kernels by name."""
    names = ("tiles", "dense", "sdpa", "xformers_blocks")
    return [
        Case(f"kernel {name}", WINDOW, 40, dtype=torch.float32, options={"kernel": name})
        for name in names
    ]


def drawn(seed: int) -> Case:
    """Return a call with a random spec, masks and cut."""
    one, rng = random_case(seed), random.Random(seed)
    given = {name: getattr(one, name) for name in MASKS if getattr(one, name) is not None}
    return Case(
        f"random_case({seed})",
        one.pattern,
        one.kv_len,
        tuple(rng.randint(0, 3) for _ in range(4)),
        one.heads,
        one.kv_heads,
        one.batch,
        head_dim=4,
        masks=given,
        options={"layer": one.layer, "layers": one.layers},
        separate=has_global_rows(one.pattern) and rng.random() < 0.5,
    )
