"""Lists for FlexAttention: both sides agree, full blocks are full, and all of it is the oracle."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask

import sparse_patterns as sp
from sparse_patterns.kernels.base import Call, Request
from sparse_patterns.kernels.flex.lists import lists_of
from sparse_patterns.kernels.flex.passes import block_mask
from sparse_patterns.lowering.blocks.lists import SIZE, BlockLists, Variant, intervals, variant_of
from sparse_patterns.lowering.normal_form import has_batch_rows, row_tokens
from sparse_patterns.spec.base import uses
from tests.random_specs import Case, random_case, seeds


def lists_and_mask(case: Case) -> tuple[BlockLists, BlockMask]:
    """Return the lists of a case, and the block mask with lists wide enough for `to_dense`."""
    offset = case.kv_len - case.q_len if case.q_offset is None else case.q_offset
    masks = (case.key_mask, case.global_mask, case.segment_ids)
    shape = (case.batch, case.heads, case.kv_heads, case.q_len, case.kv_len, offset, 8)
    request = Request(case.pattern, case.layer, case.layers, *shape, torch.float32, "cpu")
    x = torch.zeros(case.batch, case.heads, 1, 8)
    call = Call(request, x, x, x, None, *masks, 1.0, 0)
    made = sp.plan(
        case.pattern,
        case.q_len,
        case.kv_len,
        heads=case.heads,
        layer=case.layer,
        layers=case.layers,
        q_offset=case.q_offset,
    )
    variant = variant_of(case.pattern, case.heads, case.layers, case.kv_len)
    lists = lists_of(call, made, variant.uniform)
    rows, columns = math.ceil(case.q_len / SIZE), math.ceil(case.kv_len / SIZE)
    wide = [
        torch.nn.functional.pad(x, (0, (columns if number < 4 else rows) - x.shape[3]))
        if x.ndim == 4 and x.shape[3] < (columns if number < 4 else rows)
        else x
        for number, x in enumerate(lists.tensors()[:8])
    ]
    tensors = (*wide, *lists.tensors()[8:])
    return lists, block_mask(tensors, case.q_len, case.kv_len, variant.bits)


def dense(mask: BlockMask, side: str, full: bool) -> torch.Tensor:
    """Return a pair of lists as a table of blocks, `(examples, heads, rows, columns)`."""
    name = f"full_{side}" if full else side
    count, index = getattr(mask, f"{name}_num_blocks"), getattr(mask, f"{name}_indices")
    across = getattr(mask, f"{'q' if side == 'kv' else 'kv'}_num_blocks").shape[2]
    out = torch.zeros(*count.shape, across, dtype=torch.bool)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in count.shape)).tolist():
        listed = index[tuple(place)][: int(count[tuple(place)])].long()
        assert listed.unique().numel() == listed.numel()
        out[tuple(place)][listed] = True
    return out if side == "kv" else out.transpose(-1, -2)


def hold(case: Case) -> None:
    """Hold lists and masks to the oracle, outside of rows that are computed apart."""
    _, mask = lists_and_mask(case)
    want = sp.dense_mask(case.pattern, case.q_len, case.kv_len, **case.mask_arguments())
    want = want.expand(case.batch, *want.shape[-3:]).clone()
    apart = rows_apart(case)
    full, partial = dense(mask, "kv", True), dense(mask, "kv", False)
    assert torch.equal(full, dense(mask, "q", True))
    assert torch.equal(partial, dense(mask, "q", False))
    assert not (full & partial).any()
    if case.q_len and case.kv_len:
        # Torch's own reading: each list has room for all columns.
        columns = full.shape[3]
        assert torch.equal(mask.to_dense()[..., :columns].bool(), full | partial)
    spread = (case.batch, case.heads)
    full, partial = (spread_out(x, case).expand(*spread, -1, -1) for x in (full, partial))
    b, h = torch.arange(case.batch)[:, None, None, None], torch.arange(case.heads)[:, None, None]
    q, k = torch.arange(case.q_len)[:, None], torch.arange(case.kv_len)
    if b.numel() and q.numel() and k.numel():
        inside = mask.mask_mod(b, h, q, k).expand(*spread, case.q_len, case.kv_len)
    else:
        inside = torch.zeros(want.shape, dtype=torch.bool)
    seen = full | (partial & inside)
    for got in (seen, inside | full):
        assert torch.equal(got.masked_fill(apart, False), want.masked_fill(apart, False)), case
    # Full means full: the operator asks no mask there.
    assert (want | apart)[full].all()


def spread_out(table: torch.Tensor, case: Case) -> torch.Tensor:
    pairs = table.repeat_interleave(SIZE, -2).repeat_interleave(SIZE, -1)
    return pairs[..., : case.q_len, : case.kv_len]


def rows_apart(case: Case) -> torch.Tensor:
    """Return the rows of global tokens and padded queries, `(batch, heads, q_len, 1)`."""
    offset = case.kv_len - case.q_len if case.q_offset is None else case.q_offset
    bound = sp.plan(
        case.pattern,
        case.q_len,
        case.kv_len,
        heads=case.heads,
        layer=case.layer,
        layers=case.layers,
        q_offset=case.q_offset,
    ).groups
    apart = torch.zeros(case.batch, case.heads, case.q_len, 1, dtype=torch.bool)
    positions = torch.arange(case.q_len) + offset
    inside = (positions >= 0) & (positions < case.kv_len)
    for group in bound:
        for example in range(case.batch):
            marks = torch.zeros(case.kv_len, dtype=torch.bool)
            marks[list(row_tokens(group.pattern, case.kv_len))] = True
            if case.global_mask is not None and has_batch_rows(group.pattern):
                marks |= case.global_mask[example]
            if case.key_mask is not None:
                marks |= ~case.key_mask[example]
            rows = inside.clone()
            rows[inside] = marks[positions[inside]]
            apart[example, list(group.heads)] = rows[:, None]
    return apart


@pytest.mark.parametrize("seed", seeds(60, every_day=20))
def test_random_specs(seed: int) -> None:
    hold(random_case(seed))


@pytest.mark.parametrize("name", sp.names())
def test_presets(name: str) -> None:
    pattern = sp.get(name)
    marks = torch.zeros(2, 401, dtype=torch.bool)
    marks[0, [0, 7, 300]] = True
    marks = marks if uses(pattern, sp.BatchGlobal) else None
    for layer in (0, 11):
        hold(Case(0, pattern, 4, 2, 2, 401, 401, None, layer, 12, None, marks, None))


def test_which_blocks_are_full() -> None:
    mask = torch.ones(2, 512, dtype=torch.bool)
    mask[1, 300:] = False
    case = Case(0, sp.Causal(), 1, 1, 2, 512, 512, None, 0, 1, mask, None, None)
    lists, _ = lists_and_mask(case)
    assert lists.full_kv_count[:, 0].tolist() == [[0, 1, 2, 3], [0, 1, 2, 2]]
    # Keys from 300 on are padding: in the third block of keys some, in the fourth all.
    assert lists.kv_count[:, 0].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert lists.kv_index[1, 0, :, 0].tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (sp.Window(3, 4), True),
        (sp.Causal() & sp.LocalBlock(7), True),
        (sp.get("streaming"), True),
        (sp.Window(3, 3) | sp.Global((5, 6)), True),
        (sp.Window(3, 3) | sp.Global((5, 7)), False),
        (sp.Window(3, 3, 2), False),
        (~sp.Window(3, 3), False),
        (sp.Window(3, 3) | sp.BatchGlobal(), False),
        (sp.RandomBlocks(4, 1), False),
    ],
    ids=repr,
)
def test_intervals(pattern: sp.Pattern, found: bool) -> None:
    assert (intervals(pattern, torch.arange(20), 20) is not None) == found


def test_variant_speaks_of_all_layers() -> None:
    growing = sp.get("longformer-causal")
    assert variant_of(growing, 8, 12, 4096) == Variant(bits=True, uniform=False)
    assert variant_of(sp.Window(sp.linear(1, 9), 3), 8, 12, 4096) == Variant(False, True)


def test_memory_and_sizes_of_a_long_sequence() -> None:
    for pattern in (sp.Window(1024, 1024), sp.Window(256, 256) | sp.Global(tuple(range(16)))):
        case = Case(0, pattern, 12, 12, 1, 1 << 17, 1 << 17, None, 0, 1, None, None, None)
        lists, _ = lists_and_mask(case)
        assert lists.bytes < 100e6
        assert lists.kv_index.shape[3] <= 20
