"""Block tables: full blocks and the masks of partial ones together are the oracle."""

from __future__ import annotations

import time

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.lowering.blocks.table import FULL, Blocks, blocks, columns_only
from sparse_patterns.lowering.normal_form import has_batch_rows, row_tokens
from sparse_patterns.spec.base import uses
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.oracle import ExampleContext
from tests.random_specs import Case, random_case, seeds


def rows_apart(one: sp.Pattern, case: Case, context: ExampleContext, key_mask) -> torch.Tensor:
    """Return the rows that a table does not speak of: of global tokens, and of padded queries."""
    offset = case.kv_len - case.q_len if case.q_offset is None else case.q_offset
    marks = torch.zeros(case.kv_len, dtype=torch.bool)
    marks[list(row_tokens(one, case.kv_len))] = True
    if has_batch_rows(one) and context.global_mask is not None:
        marks |= context.global_mask
    if key_mask is not None:
        marks |= ~key_mask
    rows = marks.nonzero().flatten() - offset
    return rows[(rows >= 0) & (rows < case.q_len)]


def hold(case: Case, size: int) -> None:
    """Hold the tables of every head and example to the oracle."""
    offset = case.kv_len - case.q_len if case.q_offset is None else case.q_offset
    want = sp.dense_mask(case.pattern, case.q_len, case.kv_len, **case.mask_arguments())
    want = want.expand(case.batch, *want.shape[-3:])
    bound = bind(case.pattern, heads=case.heads, layer=case.layer, layers=case.layers)
    for example in range(case.batch):
        marks = None if case.global_mask is None else case.global_mask[example]
        segments = None if case.segment_ids is None else case.segment_ids[example]
        key_mask = None if case.key_mask is None else case.key_mask[example]
        context = ExampleContext(case.kv_len, marks, segments)
        for one in dict.fromkeys(bound):
            head = bound.index(one)
            made = blocks(one, case.q_len, case.kv_len, offset, size, context, key_mask)
            check_form(made, case.q_len, case.kv_len)
            got, mask = made.to_dense(case.q_len, case.kv_len), want[example, head].clone()
            apart = rows_apart(one, case, context, key_mask)
            got[apart], mask[apart] = False, False
            assert torch.equal(got, mask), (case, head)


def check_form(made: Blocks, q_len: int, kv_len: int) -> None:
    """Check that the table is sorted, names each block once, and calls each by its right name."""
    place = made.row * made.columns + made.column
    assert bool((place.diff() > 0).all())
    assert made.masks[FULL].all()
    assert not made.masks[1:].flatten(1).all(1).any()
    assert made.masks.flatten(1).any(1).all()
    assert made.full.equal(made.kind == FULL)
    # A block past the last key has keys that nobody sees.
    outside = (made.column[made.full] + 1) * made.block > kv_len
    assert not outside.any()
    dense = made.to_dense(q_len, kv_len)
    assert int(dense.sum()) <= made.row.numel() * made.block**2


@pytest.mark.parametrize("seed", seeds(120, every_day=36))
def test_random_specs(seed: int) -> None:
    hold(random_case(seed), (16, 32, 128)[seed % 3])


@pytest.mark.parametrize("name", sp.names())
def test_presets(name: str) -> None:
    pattern = sp.get(name)
    for q_len, kv_len, offset, layer, size in ((201, 201, None, 0, 64), (130, 301, 100, 11, 128)):
        marks = torch.zeros(2, kv_len, dtype=torch.bool)
        marks[0, [0, 7, kv_len - 1]] = True
        given = marks if uses(pattern, sp.BatchGlobal) else None
        hold(Case(0, pattern, 4, 2, 2, q_len, kv_len, offset, layer, 12, None, given, None), size)


SHAPES = [(0, 0), (1, 1), (7, 7), (9, 0), (0, 9), (80, 20), (20, 80), (129, 129), (128, 256)]


@pytest.mark.parametrize(
    "pattern",
    [
        sp.Window(5, 3),
        sp.Window(500, 700, 7),
        sp.Window(0, 0),
        sp.Causal(),
        sp.Full(),
        ~sp.Full(),
        ~sp.Window(3, 3),
        sp.LocalBlock(24) & sp.Causal(),
        sp.RandomBlocks(20, 2) | sp.Global((0, -1)),
        sp.BlockTable([[1, 0], [0, 1]], 40) & sp.Window(50, 20),
        sp.BlockTable([[1, 0, 1]] * 3, 1),
    ],
    ids=repr,
)
def test_hard_shapes(pattern: sp.Pattern) -> None:
    for q_len, kv_len in SHAPES:
        for offset in (None, -3, 11):
            hold(Case(0, pattern, 1, 1, 1, q_len, kv_len, offset, 0, 1, None, None, None), 16)


def test_a_full_block_is_called_full() -> None:
    made = blocks(sp.Window(128, 128), 320, 320, 0, 64)
    apart = (made.row - made.column).abs()
    assert torch.equal(made.full, apart <= 1)
    assert torch.equal(apart <= 2, torch.ones_like(made.full))
    assert made.masks.shape[0] == 3


def test_what_a_union_covers_together_is_full() -> None:
    made = blocks(sp.Window(9, 9) | ~sp.Window(9, 9), 64, 64, 0, 16)
    assert made.full.all()
    assert made.row.numel() == 16


def test_last_rows_do_not_hinder_a_full_block() -> None:
    made = blocks(sp.Full(), 20, 32, 12, 16)
    assert made.full.all()
    assert not blocks(sp.Full(), 16, 20, 4, 16).full[-1]


def test_padded_keys_are_not_full() -> None:
    mask = torch.ones(64, dtype=torch.bool)
    mask[20:] = False
    made = blocks(sp.Full(), 64, 64, 0, 16, None, mask)
    assert sorted(set(made.column.tolist())) == [0, 1]
    assert torch.equal(made.full, made.column == 0)


@pytest.mark.parametrize(
    ("pattern", "most"),
    [
        (sp.Window(1024, 1024), 4),
        (sp.Window(256, 256, 4), 20),
        (sp.Window(256, 256) | sp.Global(tuple(range(16))), 8),
        (sp.get("bigbird"), 200),
        (sp.get("streaming"), 8),
    ],
    ids=repr,
)
def test_long_sequences_cost_few_kinds_and_little_time(pattern: sp.Pattern, most: int) -> None:
    (one,) = bind(pattern, heads=1)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        made = blocks(one, 1 << 17, 1 << 17, 0, 128)
        seconds.append(time.perf_counter() - start)
    assert made.masks.shape[0] <= most
    assert made.row.numel() < 20 << 10
    # The goal is 50 ms on a quiet machine; the rest is room for a busy one.
    assert min(seconds) < 0.5


def test_rows_are_left_out_where_they_are_not_complements() -> None:
    pattern = sp.Global((1,)) | (sp.BatchGlobal() & ~sp.Global((2,)))
    want = sp.Global((1,), rows=False) | (sp.BatchGlobal(rows=False) & ~sp.Global((2,)))
    assert columns_only(pattern) == want
    assert columns_only(~pattern) != ~want


def test_a_rule_never_sees_positions_outside() -> None:
    table = torch.rand(50, 50) < 0.3

    def rule(q, k, head):
        return table[q, k]

    (one,) = bind(sp.Rule(rule), heads=1)
    made = blocks(one, 50, 50, 0, 16)
    assert torch.equal(made.to_dense(50, 50), table)
