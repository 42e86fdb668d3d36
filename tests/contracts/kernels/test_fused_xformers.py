"""The fused lowering and xformers: its biases show pairs once, its operators take every partial.

The parts are materialised by xformers' own bias classes, put where their rows and keys are, and all
together must show every pair of the oracle once. Then the kernel is run with everything of
xformers' but the compiled function underneath.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.base import Call
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.fused.kernel import XformersFusedKernel
from sparse_patterns.kernels.fused.select import RowIndex, choose_partials
from sparse_patterns.kernels.fused.views import TokenView, key_view, query_view, shape_of
from sparse_patterns.kernels.fused.xformers import (
    XformersOperator,
    has_bias,
    make_bias,
    missing_library,
)
from sparse_patterns.lowering.fused.bands import window_sides
from sparse_patterns.lowering.fused.partials import Partial
from sparse_patterns.spec.algebra import has_global_rows
from tests.contracts.kernels.emulated import fused
from tests.contracts.kernels.fused_cases import FIXED, SERVED, SLOW, refusals
from tests.contracts.kernels.holding import hold, request_of
from tests.random_specs import Case, random_case, seeds

NAME = XformersFusedKernel.name

needs_xformers = pytest.mark.skipif(missing_library() is not None, reason=str(missing_library()))


def call_of(case: Case) -> Call:
    """A call without the tensors that partials do not depend on."""
    nothing = torch.empty(0)
    masks = (case.key_mask, case.global_mask, case.segment_ids)
    return Call(
        request_of(case, torch.float64, "cpu"), nothing, nothing, nothing, None, *masks, 1.0, 0
    )


def materialise(partial: Partial, q_len: int, kv_len: int, batch: int) -> torch.Tensor:
    """How often a partial shows each pair, int64 `(batch, q_len, kv_len)`, by xformers' biases."""
    cpu = torch.device("cpu")

    def taken(lines: TokenView, length: int) -> torch.Tensor:
        return lines.take(torch.arange(batch * length).reshape(batch, length))

    rows = taken(query_view(partial, cpu), q_len)
    keys = taken(key_view(partial, cpu), kv_len)
    assert rows.flatten().unique().numel() == rows.numel(), "a row stands twice"
    shape = shape_of(partial)
    if has_bias(shape):
        bias = make_bias(shape, rows.shape[1], keys.shape[1], cpu)
        size = (rows.shape[1], keys.shape[1])
        seen = torch.ones(size) if bias is None else bias.materialize(size).exp()
    else:
        seen = one_by_one(shape, rows.shape[1], keys.shape[1])
    count = torch.zeros(batch * q_len, batch * kv_len, dtype=torch.int64)
    for own_rows, own_keys in zip(rows, keys, strict=True):
        index = (own_rows[:, None].expand_as(seen), own_keys[None, :].expand_as(seen))
        count.index_put_(index, seen.long(), accumulate=True)
    blocks = count.unflatten(1, (batch, kv_len)).unflatten(0, (batch, q_len))
    across = blocks.sum((1, 3)) - torch.diag_embed(torch.diagonal(blocks.sum((1, 3))))
    assert not across.any(), "examples meet"
    return torch.stack([blocks[example, :, example] for example in range(batch)])


def one_by_one(shape, rows: int, keys: int) -> torch.Tensor:
    """Materialise windows in packed sequences: xformers' bias for one sequence, for each."""
    from xformers.ops.fmha.attn_bias import LocalAttentionFromBottomRightMask

    sides = window_sides(shape.band, *(max(counts) for counts in shape.lengths))
    seen = torch.zeros(rows, keys)
    for row, height, key, width in fused.spans(shape.lengths):
        window = LocalAttentionFromBottomRightMask(*sides).materialize((height, width)).exp()
        seen[row : row + height, key : key + width] = window
    return seen


def marks_of(rows: RowIndex | None, case: Case) -> torch.Tensor:
    """Marked rows, bool `(batch, q_len)`."""
    marks = torch.zeros(case.batch * case.q_len, dtype=torch.bool)
    if rows is not None:
        marks[rows.index] = True
    return marks.reshape(case.batch, case.q_len)


def check_exact(case: Case) -> None:
    """Every pair of the oracle is shown once, and no other."""
    expected = sp.dense_mask(case.pattern, case.q_len, case.kv_len, **case.mask_arguments())
    expected = expected.expand(case.batch, *expected.shape[-3:])
    call = call_of(case)
    groups = {head: group for group in call.request.plan.groups for head in group.heads}
    for head, group in groups.items():
        chosen = choose_partials(call, group)
        apart, padded = marks_of(chosen.overwritten, case), marks_of(chosen.padded, case)
        parts: dict[bool, torch.Tensor] = {}
        for own, partials in ((False, chosen.partials), (True, chosen.row_partials)):
            total = torch.zeros(case.batch, case.q_len, case.kv_len, dtype=torch.int64)
            for partial in partials:
                total += materialise(partial, case.q_len, case.kv_len, case.batch)
            assert total.max() <= 1 if total.numel() else True, f"a pair counts twice: {case}"
            parts[own] = total.bool()
        assert not parts[True][~apart].any(), f"a row of its own is not marked: {case}"
        got = torch.where(apart[:, :, None], parts[True], parts[False]) & ~padded[:, :, None]
        assert torch.equal(got, expected[:, head]), f"head {head} of {case}"


@needs_xformers
@pytest.mark.parametrize("name", FIXED)
def test_parts_show_each_pair_once(name: str) -> None:
    case = FIXED[name]
    reasons = refusals(case)
    if name.startswith("bigbird"):
        assert set(reasons) == {
            "RandomBlocks is a layout of blocks, which kernel 'xformers_blocks' runs"
        }
    elif name.startswith(("axial", "neighborhood")):
        assert reasons
        assert all("shows a query several stretches of keys" in one for one in reasons)
    else:
        assert reasons == []
        check_exact(case)


@needs_xformers
@pytest.mark.parametrize("part", seeds(4, every_day=2))
def test_parts_of_random_specs_show_each_pair_once(part: int) -> None:
    for seed in SERVED[part::4]:
        check_exact(random_case(seed))


@pytest.fixture
def on_xformers(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The kernel on xformers' operator classes, over torch in place of the compiled function.

    xformers is asked whether it supports each call, and must not say a word against it.
    """
    from xformers.ops import fmha

    dtypes = {torch.float64, torch.float32, torch.float16}
    for op, raw in ((fmha.flash.FwOp, fused.raw_forward), (fmha.flash.BwOp, fused.raw_backward)):
        monkeypatch.setattr(op, "OPERATOR", staticmethod(raw))
        monkeypatch.setattr(op, "SUPPORTED_DEVICES", {"cpu"})
        monkeypatch.setattr(op, "SUPPORTED_DTYPES", dtypes)
        monkeypatch.setattr(op, "apply", classmethod(asking(op.apply.__func__)))
    kernel = fused.EmulatedFused(XformersOperator())
    monkeypatch.setitem(KERNELS, NAME, kernel)
    return NAME


def asking(plain):
    """Wrap an operator's `apply`: the inputs must be valid and supported."""

    def apply(cls, *args, **kwargs):
        from xformers.ops.fmha import Inputs

        (inputs,) = [one for one in args if isinstance(one, Inputs)]
        inputs.validate_inputs()
        assert cls.not_supported_reasons(inputs) == []
        return plain(cls, *args, **kwargs)

    return apply


@needs_xformers
@pytest.mark.parametrize("name", [name for name in FIXED if name not in SLOW])
def test_xformers_takes_every_partial(on_xformers: str, name: str) -> None:
    case = FIXED[name]
    if not refusals(case):
        hold(on_xformers, case, torch.float64, own=has_global_rows(case.pattern))


@needs_xformers
def test_xformers_takes_random_specs(on_xformers: str) -> None:
    for seed in SERVED[::6]:
        hold(on_xformers, random_case(seed), torch.float64, lse=seed % 2 > 0)
