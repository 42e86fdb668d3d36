"""The contract of kernels: each, on everything it says it can do, against the float64 oracle.

Kernels that run on the CPU are held to it there; all others on a GPU, by the tests marked `cuda`,
in each type that they have. Only `tiles` and `dense` must serve whatever the algebra says: another
kernel may refuse a case by `why_not`, and the test is then skipped with its reasons.
"""

from __future__ import annotations

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.base import Request, Tolerance
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.spec.algebra import has_global_rows
from sparse_patterns.spec.base import uses
from tests.contracts.kernels.reference import Result, reference
from tests.random_specs import Case, random_case

HEAD_DIM = 8
RANDOM_SPECS = 320
EXACT = ("dense", "tiles")
CUDA_ONLY = "runs on CUDA only"


def make_case(pattern: sp.Pattern, q_len: int, kv_len: int | None = None, **fields) -> Case:
    """Return a case with defaults."""
    defaults = {
        "seed": 0,
        "heads": 4,
        "kv_heads": 2,
        "batch": 2,
        "q_offset": None,
        "layer": 0,
        "layers": 4,
        "key_mask": None,
        "global_mask": None,
        "segment_ids": None,
    }
    kv_len = q_len if kv_len is None else kv_len
    return Case(pattern=pattern, q_len=q_len, kv_len=kv_len, **{**defaults, **fields})


def request_of(case: Case, dtype: torch.dtype, device: str, **fields) -> Request:
    """Return what a call of a case asks for."""
    return Request(
        pattern=case.pattern,
        layer=case.layer,
        layers=case.layers,
        batch=case.batch,
        heads=case.heads,
        kv_heads=case.kv_heads,
        q_len=case.q_len,
        kv_len=case.kv_len,
        q_offset=case.kv_len - case.q_len if case.q_offset is None else case.q_offset,
        dtype=dtype,
        device=device,
        key_mask=case.key_mask is not None,
        global_mask=case.global_mask is not None,
        segment_ids=case.segment_ids is not None,
        **{"head_dim": HEAD_DIM, "needs_grad": True, **fields},
    )


def runs_on_cpu(kernel: str) -> bool:
    """Return whether a kernel is not for GPUs alone."""
    request = request_of(make_case(sp.Window(1, 1), 8), torch.float32, "cpu")
    return not any(CUDA_ONLY in reason for reason in KERNELS[kernel].why_not(request))


PLACES = [
    pytest.param(name, "cpu", id=name)
    if runs_on_cpu(name)
    else pytest.param(name, "cuda", id=f"{name}-cuda", marks=pytest.mark.cuda)
    for name in sorted(KERNELS)
] + [
    pytest.param(name, "cuda", id=f"{name}-cuda", marks=pytest.mark.cuda)
    for name in sorted(KERNELS)
    if runs_on_cpu(name) and name not in EXACT
]
ON_CPU = [name for name in sorted(KERNELS) if runs_on_cpu(name)]
everywhere = pytest.mark.parametrize(("kernel", "device"), PLACES)


def skip_refused(kernel: str, case: Case, dtype: torch.dtype, device: str, **fields) -> None:
    """Skip a case that a kernel refuses, with its reasons, unless it must not refuse any."""
    reasons = KERNELS[kernel].why_not(request_of(case, dtype, device, **fields))
    if reasons and kernel not in EXACT:
        pytest.skip(f"{kernel}: {'; '.join(reasons)}")


def type_for(kernel: str, device: str, number: int = 0) -> torch.dtype:
    """Return one of the types to test a kernel in, float64 first where it is there."""
    own = KERNELS[kernel].tolerances
    types = (torch.float64, torch.float32, torch.float32)
    if device == "cuda" or not set(types) <= set(own):
        halves = (torch.bfloat16, torch.float16)
        types = tuple(one for one in (*halves, torch.float32) if one in own)
    return types[number % len(types)]


def make_inputs(
    case: Case,
    dtype: torch.dtype,
    *,
    own: bool = False,
    factor: float = 1.0,
    head_dim: int = HEAD_DIM,
):
    """Return `q, k, v`, with `own` also `global_qkv`, and the gradients of output and LSE."""
    generator = torch.Generator().manual_seed(case.seed)

    def draw(heads: int, length: int) -> torch.Tensor:
        shape = (case.batch, heads, length, head_dim)
        return torch.randn(shape, generator=generator).to(dtype)

    triple = (
        (case.heads, case.q_len),
        (case.kv_heads, case.kv_len),
        (case.kv_heads, case.kv_len),
    )
    inputs = [draw(*shape) * factor for shape in triple * (2 if own else 1)]
    grad_lse = torch.randn(case.batch, case.heads, case.q_len, generator=generator)
    return inputs, draw(case.heads, case.q_len), grad_lse


def hold(
    kernel: str,
    case: Case,
    dtype=torch.float32,
    device="cpu",
    *,
    own=False,
    factor=1.0,
    lse=True,
    head_dim=HEAD_DIM,
) -> None:
    """Hold a kernel's output, log-sum-exp and gradients to the reference."""
    skip_refused(kernel, case, dtype, device, global_qkv=own, head_dim=head_dim)
    inputs, grad_out, grad_lse = make_inputs(case, dtype, own=own, factor=factor, head_dim=head_dim)
    context = case.mask_arguments()
    expected = reference(inputs, case.pattern, grad_out, grad_lse if lse else None, **context)
    del context["heads"]
    leaves = [x.to(device, copy=True).requires_grad_() for x in inputs]
    context = {
        name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in context.items()
    }
    out, logs = sp.attention(
        *leaves[:3],
        case.pattern,
        global_qkv=tuple(leaves[3:]) or None,
        kernel=kernel,
        return_lse=True,
        **context,
    )
    results, upstream = [out], [grad_out.to(device)]
    if lse:
        results, upstream = [out, logs], [*upstream, grad_lse.to(logs)]
    grads = torch.autograd.grad(results, leaves, upstream)
    got = Result(out.detach().cpu(), logs.detach().cpu(), tuple(grad.cpu() for grad in grads))
    compare(got, expected, KERNELS[kernel].tolerances[dtype], case, factor)


def compare(got: Result, want: Result, allowed: Tolerance, case: Case, factor: float = 1.0) -> None:
    """Hold a result to the reference.

    Args:
        got: In the type of the inputs.
        want: In float64.
        allowed: For inputs of unit variance.
        case: Named where it fails.
        factor: What the inputs were multiplied by. Values then have its size and scores that of
            its square. A weight is the exponential of a score, so its rounding errors grow with
            the size of scores. In half types, whose sums are float32, they stay below those of the
            output, which enter the gradients once more.
    """
    seen = want.lse > -torch.inf
    assert torch.equal(got.lse > -torch.inf, seen), case
    assert torch.equal(got.out[~seen], torch.zeros_like(got.out[~seen])), case
    score = max(1.0, factor**2)
    weight = max(1.0, min(score / 4, 2.0 if got.out.dtype.itemsize == 2 else torch.inf))
    assert largest(got.out, want.out) <= allowed.forward * max(1.0, factor) * weight, case
    assert largest(got.lse[seen], want.lse[seen]) <= allowed.forward * score, case
    for one, other in zip(got.grads, want.grads, strict=True):
        scale = max(1.0, float(other.abs().max()) if other.numel() else 0.0)
        assert largest(one, other) <= allowed.gradient * scale * weight, case


def largest(got: torch.Tensor, want: torch.Tensor) -> float:
    """Return the largest difference; NaN where something is NaN, which no comparison passes."""
    return float((got.detach().double() - want).abs().max()) if got.numel() else 0.0


@everywhere
@pytest.mark.parametrize("seed", range(RANDOM_SPECS))
def test_random_specs(kernel: str, device: str, seed: int) -> None:
    hold_random(kernel, device, seed)


def hold_random(kernel: str, device: str, seed: int) -> None:
    """Hold a kernel to the reference on the random spec of a seed."""
    case = random_case(seed)
    own = bool(seed % 2) and has_global_rows(case.pattern)
    dtype = type_for(kernel, device, seed)
    hold(kernel, case, dtype, device, own=own, lse=seed % 4 > 0)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sp.names())
def test_presets(kernel: str, device: str, dtype: torch.dtype, name: str) -> None:
    pattern = sp.get(name)
    marks = torch.zeros(2, 301, dtype=torch.bool)
    marks[0, [0, 7, 300]] = True
    fields = {"global_mask": marks} if uses(pattern, sp.BatchGlobal) else {}
    for layer in (0, 11):
        hold(kernel, make_case(pattern, 301, layer=layer, layers=12, **fields), dtype, device)


LARGE = make_case(sp.Window(9, 9) | sp.Global((0, 50)), 97)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [6.0, 40.0])
def test_large_scores_do_not_overflow(
    kernel: str, device: str, factor: float, dtype: torch.dtype
) -> None:
    hold(kernel, LARGE, dtype, device, factor=factor)


def spoiled(inputs: list[torch.Tensor], case: Case, fault: str, *upstream: torch.Tensor) -> Result:
    """Return the exact result but for one pair, the one with the largest weight.

    Args:
        inputs: Queries, keys and values.
        case: What the reference is asked for.
        fault: `dropped` leaves the key out; `heavier` takes 5 % more of its value; `unread` leaves
            the key's part of the row out of the gradient.
        *upstream: Gradients of the output and the log-sum-exp.
    """
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    q, k, v = leaves
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    mask = sp.dense_mask(case.pattern, case.q_len, case.kv_len, **case.mask_arguments())
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1)
    one = (weights == weights.max()).double()
    if fault == "dropped":
        scores = scores.masked_fill(one.bool(), -torch.inf)
    weights = scores.softmax(-1)
    if fault == "heavier":
        weights = weights * (1 + 0.05 * one)
    if fault == "unread":
        weights = torch.where(one.bool(), weights.detach(), weights)
    out, lse = weights @ v, scores.logsumexp(-1)
    grads = torch.autograd.grad([out, lse], leaves, [x.double() for x in upstream])
    return Result(out.detach(), lse.detach(), grads)


# What is not read in the backward pass shows where a row has more than one weight above zero.
FAULTS = [
    (fault, factor)
    for fault in ("none", "dropped", "heavier", "unread")
    for factor in ((1.0,) if fault == "unread" else (1.0, 6.0, 40.0))
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("fault", "factor"), FAULTS)
def test_one_wrong_pair_does_not_pass(fault: str, factor: float, dtype: torch.dtype) -> None:
    """The widest tolerance is narrow enough for a mistake in one pair, whatever the scores."""
    all_allowed = [own for kernel in KERNELS.values() if (own := kernel.tolerances.get(dtype))]
    allowed = Tolerance(
        max(own.forward for own in all_allowed), max(own.gradient for own in all_allowed)
    )
    inputs, *upstream = make_inputs(LARGE, dtype, factor=factor)
    exact = reference(inputs, LARGE.pattern, *upstream, **LARGE.mask_arguments())
    wrong = spoiled(inputs, LARGE, fault, *upstream)
    # In the type of a kernel's result: its rounding must pass, and must not hide the fault.
    got = Result(wrong.out.to(dtype), wrong.lse, tuple(grad.to(dtype) for grad in wrong.grads))
    if fault == "none":
        compare(got, exact, allowed, LARGE, factor)
        return
    if fault != "unread":
        assert largest(got.out, exact.out) > 0.02 * factor
    with pytest.raises(AssertionError):
        compare(got, exact, allowed, LARGE, factor)


@everywhere
@pytest.mark.parametrize("head_dim", [1, 20, 64, 128])
def test_head_sizes(kernel: str, device: str, head_dim: int) -> None:
    pattern = sp.Window(9, 9) | sp.Global((0, 50))
    case = make_case(pattern, 97)
    hold(kernel, case, type_for(kernel, device), device, head_dim=head_dim)


WINDOW = sp.Window(5, 3)
GLOBALS = WINDOW | sp.BatchGlobal()
HARD = {
    "length 0": make_case(WINDOW, 0),
    "length 1": make_case(WINDOW, 1),
    "length 7": make_case(WINDOW, 7),
    "length 1025": make_case(sp.Window(64, 64, (1, 1, 2, 3)) | sp.Global((0,)), 1025, batch=1),
    "window 0": make_case(sp.Window(0, 0), 33),
    "wider than the sequence": make_case(sp.Window(500, 700), 33),
    "wide and dilated": make_case(sp.Window(500, 700, 7), 33),
    "only before": make_case(sp.Window(6, 0), 70),
    "only after": make_case(sp.Window(0, 6), 70),
    "batch 0": make_case(WINDOW, 9, batch=0),
    "no keys": make_case(WINDOW, 9, 0),
    "more queries than keys": make_case(sp.Window(5, 90), 80, 20),
    "more keys than queries": make_case(WINDOW | sp.Causal(), 20, 80),
    "offset": make_case(sp.Causal(), 20, 80, q_offset=11),
    "nothing visible": make_case(~sp.Full(), 20),
    "odd heads": make_case(WINDOW, 20, heads=3, kv_heads=1),
}


def marked(length: int, *tokens: int) -> torch.Tensor:
    """Return one row of marks."""
    marks = torch.zeros(length, dtype=torch.bool)
    marks[list(tokens)] = True
    return marks


PADDED = torch.ones(2, 60, dtype=torch.bool)
PADDED[0, 20:45] = False
PADDED[1, :3] = False
SOME = torch.stack([marked(60, 0, 30, 59), marked(60)])
HARD |= {
    "a whole window of padding": make_case(WINDOW, 60, key_mask=PADDED),
    "padding marked global": make_case(GLOBALS, 60, key_mask=PADDED, global_mask=SOME),
    "some examples without globals": make_case(GLOBALS, 60, global_mask=SOME),
    "no globals given": make_case(GLOBALS, 60),
    "all padded": make_case(GLOBALS, 60, key_mask=PADDED & False, global_mask=SOME),
    "documents": make_case(
        (sp.Window(9, 9) | sp.Global((0,))) & sp.SameDocument(),
        60,
        segment_ids=torch.arange(60).div(17, rounding_mode="floor").expand(2, 60),
    ),
}


@everywhere
@pytest.mark.parametrize("name", HARD)
def test_hard_shapes(kernel: str, device: str, name: str) -> None:
    case = HARD[name]
    dtype = type_for(kernel, device)
    hold(kernel, case, dtype, device)
    if uses(case.pattern, sp.Global, sp.BatchGlobal):
        hold(kernel, case, dtype, device, own=True)


@pytest.mark.parametrize("kernel", ON_CPU)
def test_gradcheck(kernel: str) -> None:
    pattern = sp.Window(2, 1, (1, 2)) | sp.Global((0,))
    skip_refused(kernel, make_case(pattern, 7), torch.float64, "cpu", global_qkv=True, head_dim=3)
    shapes = [(1, 2, 7, 3), (1, 1, 9, 3), (1, 1, 9, 3)] * 2
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes
    ]

    def run(*x: torch.Tensor):
        return sp.attention(
            *x[:3], pattern, q_offset=0, global_qkv=x[3:], kernel=kernel, return_lse=True
        )

    assert torch.autograd.gradcheck(run, inputs)


@everywhere
def test_layout_does_not_matter(kernel: str, device: str) -> None:
    dtype = type_for(kernel, device)
    # Fused operators take a layout as it is or copied, and round alike but not in the same order.
    allowed = 1e-14 if dtype == torch.float64 else KERNELS[kernel].tolerances[dtype].forward
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 50, 4, HEAD_DIM, generator=generator, dtype=torch.float64)
    turned = x.to(device, dtype).transpose(1, 2)
    spread = torch.stack([turned, turned], -1)[..., 0]
    shared = turned[:, :1].expand(-1, 4, -1, -1)
    one = sp.Window(6, 6) | sp.Global((3,))
    for view in (turned, spread, shared):
        plain = view.contiguous().requires_grad_()
        leaf = view.detach().requires_grad_()
        results = []
        for source in (plain, leaf):
            out = sp.attention(source, source, source, one, kernel=kernel)
            (grad,) = torch.autograd.grad(out.square().sum(), source)
            results.append((out, grad))
        for got, want in zip(*results, strict=True):
            got, want = got.detach(), want.detach()
            size = max(1.0, float(want.abs().max()))
            torch.testing.assert_close(got, want, rtol=0, atol=allowed * size)


@everywhere
def test_examples_do_not_meet(kernel: str, device: str) -> None:
    case = HARD["padding marked global"]
    dtype = torch.float32 if kernel in EXACT else type_for(kernel, device)
    (q, k, v), _, _ = make_inputs(case, dtype)
    q, k, v, padded, some = (x.to(device) for x in (q, k, v, PADDED, SOME))
    together = sp.attention(q, k, v, GLOBALS, key_mask=padded, global_mask=some, kernel=kernel)
    for index in range(2):
        one = slice(index, index + 1)
        alone = sp.attention(
            q[one],
            k[one],
            v[one],
            GLOBALS,
            key_mask=padded[one],
            global_mask=some[one],
            kernel=kernel,
        )
        if kernel in EXACT:
            assert torch.equal(together[one], alone)
        else:
            # What is packed together is cut to tiles together, which changes the order of sums.
            size = KERNELS[kernel].tolerances[dtype].forward
            torch.testing.assert_close(together[one], alone, rtol=0, atol=size)


@pytest.mark.parametrize("kernel", ON_CPU)
class TestDropout:
    """Real dropout: seeded, unbiased, the same in the backward pass."""

    pattern = sp.Window(4, 4) | sp.Global((0,))

    def run(self, kernel: str, p: float, x: torch.Tensor) -> torch.Tensor:
        skip_refused(kernel, make_case(self.pattern, x.shape[2]), x.dtype, "cpu", dropout_p=p)
        out = sp.attention(x, x, x, self.pattern, dropout_p=p, kernel=kernel)
        assert isinstance(out, torch.Tensor)
        return out

    def test_is_seeded(self, kernel: str) -> None:
        x = torch.randn(1, 2, 40, HEAD_DIM, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(3)
        first, second = self.run(kernel, 0.5, x), self.run(kernel, 0.5, x)
        torch.manual_seed(3)
        assert torch.equal(first, self.run(kernel, 0.5, x))
        assert not torch.equal(first, second)

    def test_keeps_the_mean(self, kernel: str) -> None:
        x = torch.randn(1, 2, 40, HEAD_DIM, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        mean = torch.stack([self.run(kernel, 0.3, x) for _ in range(600)])
        error = (mean.mean(0) - self.run(kernel, 0.0, x)) / (mean.std(0) / 600**0.5 + 1e-9)
        assert error.abs().max() < 5

    def test_all_dropped_is_zero(self, kernel: str) -> None:
        x = torch.randn(1, 1, 9, HEAD_DIM, requires_grad=True)
        out = self.run(kernel, 1.0, x)
        out.sum().backward()
        assert not out.any()
        assert x.grad is not None
        assert not x.grad.any()

    def test_gradient_is_that_of_the_same_draw(self, kernel: str) -> None:
        x = torch.randn(1, 2, 12, 3, dtype=torch.float64, requires_grad=True)

        def run(y: torch.Tensor) -> torch.Tensor:
            torch.manual_seed(1)
            return self.run(kernel, 0.4, y)

        assert torch.autograd.gradcheck(run, (x,))

    def test_survives_checkpointing(self, kernel: str) -> None:
        from torch.utils.checkpoint import checkpoint

        grads = []
        for wrap in (lambda f, y: f(y), lambda f, y: checkpoint(f, y, use_reentrant=False)):
            x = torch.randn(1, 2, 30, HEAD_DIM, generator=torch.Generator().manual_seed(0))
            x.requires_grad_()
            torch.manual_seed(5)
            wrap(lambda y: self.run(kernel, 0.5, y), x).square().sum().backward()
            grads.append(x.grad)
        assert torch.equal(*grads)
