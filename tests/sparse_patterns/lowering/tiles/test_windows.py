"""Tiles by arithmetic are those that lists of every query give, and cost no time by length."""

from __future__ import annotations

import random

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.lowering.normal_form import to_conjuncts
from sparse_patterns.lowering.tiles.columns import column_part
from sparse_patterns.lowering.tiles.intervals import interval_part
from sparse_patterns.lowering.tiles.runs import PlanPart
from sparse_patterns.lowering.tiles.windows import window_part
from tests.random_specs import seeds


def tiles(part: PlanPart) -> list[tuple[object, ...]]:
    """Every tile of a part, with its mask."""
    found: list[tuple[object, ...]] = []
    for run in part.runs:
        for one in run.split(1):
            mask = None if one.mask is None else one.mask.expand(1, one.rows, one.keys)
            seen = None if mask is None else mask.numpy().tobytes()
            found.append((one.q_start, one.k_start, one.rows, one.keys, one.q_step, seen))
    return sorted(found, key=lambda tile: tile[:4])


def drawn(seed: int) -> sp.Pattern:
    draw = random.Random(seed)

    def window() -> sp.Pattern:
        side = [draw.choice((0, 1, 31, 64, 100, 600)) for _ in range(2)]
        made = sp.Window(*side, draw.choice((1, 1, 2, 3, 17, 40)))
        others = (sp.Causal(), ~sp.Causal(), sp.Strided(4), ~sp.Window(3, 2), sp.Full(), sp.Full())
        return made & draw.choice(others)

    pattern = window()
    if draw.random() < 0.5:
        pattern = pattern | draw.choice((window(), sp.Causal(), ~window()))
    if draw.random() < 0.7:
        tokens = [draw.randint(-9, 9) for _ in range(draw.randint(1, 4))]
        pattern = pattern | sp.Global(tuple(tokens), rows=False)
    return pattern


@pytest.mark.parametrize("seed", seeds(150, every_day=12))
def test_tiles_are_those_of_lists_of_queries(seed: int) -> None:
    pattern, draw = drawn(seed), random.Random(seed)
    kv_len = draw.choice((1, 70, 257, 500, 900))
    q_len = kv_len if draw.random() < 0.6 else draw.choice((1, 64, 300))
    offset = kv_len - q_len if draw.random() < 0.7 else draw.randint(-50, kv_len + 50)
    conjuncts = to_conjuncts(pattern)
    q = torch.arange(q_len) + offset
    for index, conjunct in enumerate(conjuncts):
        earlier = conjuncts[:index]
        make = column_part if conjunct.columns else window_part
        part = make(conjunct, earlier, q_len, kv_len, offset)
        if part is None:
            continue
        want = interval_part(conjunct, earlier, q, kv_len)
        assert tiles(part) == tiles(want)
        assert len(part.runs) <= len(want.runs)
        assert part.name == want.name


def test_lengths_are_numbers() -> None:
    window, columns = to_conjuncts(sp.Window(64, 64, 2) | sp.Global((0, -1), rows=False))
    counts = []
    for length in (5_120, 51_200_000):
        made = window_part(window, [], length, length, 0)
        shared = column_part(columns, [window], length, length, 0)
        assert made is not None
        assert shared is not None
        counts.append((len(made.runs), len(shared.runs)))
    assert counts[0] == counts[1]


def test_masks_are_the_same_objects_at_every_length() -> None:
    (conjunct,) = to_conjuncts(sp.Window(64, 64))
    runs = [window_part(conjunct, [], length, length, 0) for length in (1000, 1032)]
    first, second = ({id(run.mask) for run in part.runs} for part in runs if part is not None)
    assert first == second


def test_what_is_no_window_is_left_to_others() -> None:
    blocks, odd = (to_conjuncts(one)[0] for one in (sp.LocalBlock(8), sp.Global((3,), rows=False)))
    assert window_part(blocks, [], 100, 100, 0) is None
    assert window_part(odd, [], 100, 100, 0) is None
    assert column_part(blocks, [], 100, 100, 0) is None
    assert column_part(odd, [blocks], 100, 100, 0) is None
