"""Cases that the fused lowering is proved on, and which of the random specs it serves."""

from __future__ import annotations

import torch

import sparse_patterns as sp
from sparse_patterns.lowering.fused.lower import lower_fused
from sparse_patterns.spec.base import uses
from sparse_patterns.spec.binding import bind
from tests.contracts.kernels.cases import HARD, make_case
from tests.random_specs import Case, random_case

SEEDS = 320

# Every reason that a pattern is refused for, and how many of the random specs it must leave.
REFUSALS = (
    r"RandomBlocks is a layout of blocks, which kernel 'xformers_blocks' runs",
    r"BlockTable is a layout of blocks, which kernel 'xformers_blocks' runs",
    r".* is to be evaluated pair by pair, which no fused operator does",
    r"GridWindow\(.*\) shows a query several stretches of keys, and a fused operator takes one; .*",
    r"its windows overlap with steps, blocks or documents that do not nest, .*",
)
SERVED_AT_LEAST = 120


def refusals(case: Case) -> list[str]:
    """Why the case's pattern is not for fused operators."""
    bound = bind(case.pattern, heads=case.heads, layer=case.layer, layers=case.layers)
    return [why for one in bound for why in lower_fused(one, case.q_len, case.kv_len).reasons]


SERVED = [seed for seed in range(SEEDS) if not refusals(random_case(seed))]


def preset_case(name: str, layer: int) -> Case:
    """A preset in a model of 12 layers, with global tokens where it takes them."""
    pattern = sp.get(name)
    marks = torch.zeros(2, 301, dtype=torch.bool)
    marks[0, [0, 7, 300]] = True
    given = {"global_mask": marks} if uses(pattern, sp.BatchGlobal) else {}
    return make_case(pattern, 301, layer=layer, layers=12, **given)


PRESETS = {
    f"{name}, layer {layer}": preset_case(name, layer) for name in sp.names() for layer in (0, 11)
}
FIXED = {
    **PRESETS,
    **HARD,
    "window, dilated, with scattered globals": make_case(
        sp.Window(7, 5, 3) | sp.Global((0, 1, 2, 40, 77)), 100
    ),
    "block and window, documents": make_case(
        (sp.LocalBlock(16) | sp.Window(3, 9)) & sp.SameDocument(),
        90,
        segment_ids=torch.tensor([[0] * 20 + [1] * 50 + [0] * 20, list(range(45)) * 2]),
    ),
    "causal documents, cached keys": make_case(
        sp.Window(11, 0) & sp.SameDocument(),
        30,
        70,
        segment_ids=torch.arange(70).div(13, rounding_mode="floor").expand(2, 70),
    ),
    "right padding, dilated": make_case(
        sp.Window(4, 4, 2) | sp.Global((0,), rows=False),
        61,
        key_mask=torch.arange(61) < torch.tensor([[61], [20]]),
    ),
    "nested dilations": make_case(sp.Window(3, 3, 4) | sp.Window(9, 2, 2) | sp.Window(5, 0), 80),
    "a part that shows nothing": make_case(
        (sp.Window(5, 0) & ~sp.Causal()) | (sp.Window(9, 9, 4) & sp.LocalBlock(16)), 80
    ),
    "summary": make_case(sp.Summary(10, 3) & sp.Causal(), 75),
}

# Too long to be run in every way; the first layer of a preset says nothing that the last does not.
SLOW = {"length 385", *(name for name in PRESETS if name.endswith("layer 0"))}
