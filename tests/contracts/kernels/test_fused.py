"""The fused lowering, proved on the CPU: exact and disjoint, and right when it is run.

First the parts alone: each is materialised by xformers' own bias class, put where its rows and keys
are, and all together must show every pair of the oracle once. Then the kernel itself, with torch in
place of the one operator that needs a GPU, is held to the contract of all kernels; and once more
with everything of xformers' but the compiled function underneath.
"""

from __future__ import annotations

import re
from collections import Counter
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
from sparse_patterns.lowering.fused.lower import lower_fused
from sparse_patterns.lowering.fused.partials import Partial
from sparse_patterns.spec.algebra import has_global_rows
from sparse_patterns.spec.base import uses
from sparse_patterns.spec.binding import bind
from tests.contracts.kernels import fused, test_kernels
from tests.contracts.kernels.cases import HARD, make_case
from tests.contracts.kernels.holding import hold, request_of
from tests.random_specs import Case, random_case

NAME = XformersFusedKernel.name
SEEDS = 320

# Every reason that a pattern is refused for, and how many of the random specs it must leave.
REFUSALS = (
    r"RandomBlocks is a layout of blocks, which kernel 'xformers_blocks' runs",
    r"BlockTable is a layout of blocks, which kernel 'xformers_blocks' runs",
    r".* is to be evaluated pair by pair, which no fused operator does",
    r"its windows overlap with steps, blocks or documents that do not nest, .*",
)
SERVED_AT_LEAST = 130

needs_xformers = pytest.mark.skipif(missing_library() is not None, reason=str(missing_library()))


def refusals(case: Case) -> list[str]:
    """Why the case's pattern is not for fused operators."""
    bound = bind(case.pattern, heads=case.heads, layer=case.layer, layers=case.layers)
    return [why for one in bound for why in lower_fused(one, case.q_len, case.kv_len).reasons]


SERVED = [seed for seed in range(SEEDS) if not refusals(random_case(seed))]


def test_random_specs_are_refused_for_known_reasons_only() -> None:
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):
        for reason in set(refusals(random_case(seed))):
            (known,) = [one for one in REFUSALS if re.fullmatch(one, reason)]
            counts[known] += 1
    assert len(SERVED) >= SERVED_AT_LEAST
    assert set(counts) == set(REFUSALS)


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
SLOW = {"length 1025", *(name for name in PRESETS if name.endswith("layer 0"))}


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
    else:
        assert reasons == []
        check_exact(case)


@needs_xformers
@pytest.mark.parametrize("part", range(4))
def test_parts_of_random_specs_show_each_pair_once(part: int) -> None:
    for seed in SERVED[part::4]:
        check_exact(random_case(seed))


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel with the torch operator in place of xformers'."""
    monkeypatch.setitem(KERNELS, NAME, fused.EmulatedFused())
    return NAME


@pytest.mark.parametrize("part", range(4))
@pytest.mark.slow
def test_random_specs(emulated: str, part: int) -> None:
    for seed in SERVED[part::4]:
        case = random_case(seed)
        own = bool(seed % 2) and has_global_rows(case.pattern)
        dtype = torch.float64 if seed % 3 == 0 else torch.float32
        hold(emulated, case, dtype, own=own, lse=seed % 4 > 0)


@pytest.mark.parametrize("name", FIXED)
def test_presets_and_hard_shapes(emulated: str, name: str) -> None:
    case = FIXED[name]
    if not refusals(case):
        hold(emulated, case, torch.float64, own=has_global_rows(case.pattern))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in FIXED if name not in SLOW])
def test_half_types(emulated: str, name: str, dtype: torch.dtype) -> None:
    case = FIXED[name]
    if not refusals(case):
        hold(emulated, case, dtype, own=has_global_rows(case.pattern))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_large_scores_do_not_overflow(emulated: str, dtype: torch.dtype) -> None:
    test_kernels.test_large_scores_do_not_overflow(emulated, "cpu", 40.0, dtype)


def test_layout_does_not_matter(emulated: str) -> None:
    test_kernels.test_layout_does_not_matter(emulated, "cpu")


def test_examples_do_not_meet(emulated: str) -> None:
    test_kernels.test_examples_do_not_meet(emulated, "cpu")


@pytest.mark.parametrize("head_dim", [1, 8, 20, 64])
@pytest.mark.parametrize("scale", [-0.7, 0.0, 0.3])
def test_head_sizes_and_scales(emulated: str, head_dim: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, 2, 40, head_dim, generator=generator, dtype=torch.float64)
    pattern = sp.Window(6, 3) | sp.Global((0, 20))
    results = []
    for kernel in (emulated, "dense"):
        leaves = [one.clone().requires_grad_() for one in x]
        out, lse = sp.attention(*leaves, pattern, kernel=kernel, scale=scale, return_lse=True)
        (out.square().sum() + lse.sin().sum()).backward()
        results.append([out, lse, *(leaf.grad for leaf in leaves)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


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


@pytest.mark.parametrize("pattern", [sp.Window(6, 3), sp.Window(6, (3, 0)) | sp.Global((0,))])
@pytest.mark.parametrize("inside", [False, True])
def test_results_are_laid_out_as_compiled_programs_expect(pattern, inside: bool) -> None:
    x = torch.randn(3, 2, 30, 2, 8) if inside else torch.randn(3, 2, 2, 30, 8)
    q, k, v = (one.transpose(1, 2) if inside else one for one in x)
    call = Call(
        request_of(make_case(pattern, 30, heads=2), torch.float32, "cpu"),
        *(q, k, v, None, None, None, None, 0.3, 0),
    )
    plan = sp.plan(pattern, 30, heads=2, head_dim=8)
    kernel = fused.EmulatedFused()
    out, lse = kernel.forward(call, plan)
    assert out.stride() == torch.empty_like(q).stride()
    assert lse.is_contiguous()
    for grad, one in zip(kernel.backward(call, plan, out, lse, out, None), (q, k, v), strict=True):
        assert grad.stride() == torch.empty_like(one).stride()


@pytest.mark.slow
def test_a_model_compiles_around_it(emulated: str) -> None:
    from tests.contracts.kernels.test_compiled_training import step

    torch._dynamo.reset()
    assert all(grad is not None for grad in step(emulated, "cpu", "aot_eager"))


def test_reasons_name_what_is_missing() -> None:
    def reasons(pattern: sp.Pattern | None = None, **fields) -> str:
        pattern, dtype = pattern or sp.Window(3, 3), fields.pop("dtype", torch.bfloat16)
        device = fields.pop("device", "cuda")
        request = request_of(make_case(pattern, 40), dtype, device, **fields)
        return "; ".join(XformersFusedKernel().why_not(request))

    assert "runs on CUDA only, device is cpu" in reasons(device="cpu")
    if not torch.cuda.is_available():
        assert "no CUDA device is there" in reasons()
    assert "xformers has no fused operator with a backward for windows in float32" in reasons(
        dtype=torch.float32
    )
    assert "dropout (dropout_p=0.1) is drawn inside" in reasons(dropout_p=0.1)
    assert "head_dim must be <= 256, got 264" in reasons(head_dim=264)
    assert "RandomBlocks is a layout of blocks" in reasons(sp.get("bigbird"))
    assert "every_third" in reasons(sp.Rule(lambda q, k, head: q > k, name="every_third"))
    torch.use_deterministic_algorithms(True)
    try:
        assert "its backward is not deterministic" in reasons()
        assert "not deterministic" not in reasons(needs_grad=False)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (None, "is not installed: pip install xformers"),
        ("0.0.29+cu128", "xformers 0.0.29+cu128 is older than 0.0.35: pip install -U"),
    ],
)
def test_a_missing_or_old_xformers_is_named(monkeypatch, version: str | None, told: str) -> None:
    from sparse_patterns.kernels.fused.xformers import importlib

    found = None if version is None else object()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    missing_library.cache_clear()
    case = make_case(sp.Window(3, 3), 40)
    try:
        for device in ("cpu", "cuda"):
            request = request_of(case, torch.bfloat16, device)
            assert any(told in reason for reason in XformersFusedKernel().why_not(request))
    finally:
        missing_library.cache_clear()


def test_a_gradient_of_the_log_sum_exp_needs_room(emulated: str) -> None:
    x = torch.randn(1, 1, 4, 256, requires_grad=True)
    out, lse = sp.attention(x, x, x, sp.Window(1, 1), kernel=emulated, return_lse=True)
    out.sum().backward()
    out, lse = sp.attention(x, x, x, sp.Window(1, 1), kernel=emulated, return_lse=True)
    with pytest.raises(ValueError, match="no gradient of the log-sum-exp with head_dim 256"):
        lse.sum().backward()
