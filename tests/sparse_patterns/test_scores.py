"""Changed scores through everything around the kernels: transforms, compilers, modules, caches."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparse_patterns as sp

PATTERN = sp.Window(4, 3, (1, 1, 2, 2)) | sp.Global((0, 9))
CAUSAL = sp.Window.before(6) | sp.Global((0,), rows=False)


def changes(dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    sinks = torch.randn(4, generator=draw, dtype=dtype, requires_grad=True)
    table = torch.randn(4, 11, generator=draw, dtype=dtype, requires_grad=True)
    return {"softcap": 2.0, "sinks": sinks, "distance_bias": table}


def inputs(batch: int = 2, length: int = 20, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    q = torch.randn(batch, 4, length, 8, generator=draw, dtype=dtype)
    k, v = (torch.randn(batch, 2, length, 8, generator=draw, dtype=dtype) for _ in range(2))
    return [q, k, v]


def run(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, table: Tensor) -> Tensor:
    out = sp.attention(q, k, v, PATTERN, softcap=2.0, sinks=sinks, distance_bias=table)
    assert isinstance(out, Tensor)
    return out


def test_grad_and_vmap_of_torch_func_agree_with_backward() -> None:
    q, k, v = inputs()
    sinks, table = (changes()[name] for name in ("sinks", "distance_bias"))
    want = torch.autograd.grad(run(q, k, v, sinks, table).square().sum(), (sinks, table))
    loss = lambda a, b: run(q, k, v, a, b).square().sum()  # noqa: E731
    got = torch.func.grad(loss, argnums=(0, 1))(sinks.detach(), table.detach())
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)
    # A table and sinks for each example, as in an ensemble.
    several = [torch.stack([x.detach(), 2 * x.detach()]) for x in (sinks, table)]
    each = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(*several)
    alone = torch.func.grad(loss, argnums=(0, 1))(*(x[1] for x in several))
    for one, other in zip(each, alone, strict=True):
        torch.testing.assert_close(one[1], other)


def test_a_compiled_program_agrees() -> None:
    given, results = inputs(), []
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for call in (run, compiled):
        own = [changes()["sinks"], changes()["distance_bias"]]
        leaves = [x.clone().requires_grad_() for x in given]
        out = call(*leaves, *own)
        results.append([out, *torch.autograd.grad(out.square().sum(), [*leaves, *own])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["dense", "tiles", "xformers_blocks"])
def test_dropout_has_the_gradient_of_the_same_draw(kernel: str) -> None:
    given = inputs(1, 11)
    own = changes()
    learned = (own["sinks"], own["distance_bias"])

    def call(*x: Tensor) -> Tensor:
        torch.manual_seed(2)
        terms = {"softcap": 2.0, "sinks": x[3], "distance_bias": x[4]}
        out = sp.attention(*x[:3], PATTERN, dropout_p=0.4, kernel=kernel, **terms)
        assert isinstance(out, Tensor)
        return out

    assert torch.autograd.gradcheck(call, (*given, *learned), fast_mode=True)


@pytest.mark.parametrize("kernel", ["dense", "tiles", "xformers_blocks"])
def test_a_key_that_is_not_finite_spoils_only_rows_that_see_it(kernel: str) -> None:
    q, k, v = inputs(1, 30)
    clean = sp.attention(q, k, v, sp.Window(2, 2), kernel=kernel, return_lse=True, **changes())
    k[0, 0, 12], v[0, 0, 12] = torch.nan, 1e300
    found = sp.attention(q, k, v, sp.Window(2, 2), kernel=kernel, return_lse=True, **changes())
    far = [*range(10), *range(15, 30)]
    for one, other in zip(found, clean, strict=True):
        torch.testing.assert_close(one[:, :, far], other[:, :, far], rtol=0, atol=1e-13)
        assert one[:, :2, 10:15].isnan().all()
    # Values too large for sums are computed row by row, and give what they are.
    k[0, 0, 12] = 0
    q = q.requires_grad_()
    own = changes()
    out = sp.attention(q, k, v / 1e200, sp.Window(2, 2), kernel=kernel, **own)
    grads = torch.autograd.grad(out.sum(), [q, own["sinks"], own["distance_bias"]])
    dense = sp.attention(q, k, v / 1e200, sp.Window(2, 2), kernel="dense", **own)
    want = torch.autograd.grad(dense.sum(), [q, own["sinks"], own["distance_bias"]])
    for one, other in zip((out, *grads), (dense, *want), strict=True):
        torch.testing.assert_close(one, other)


def test_a_cache_continues_as_one_pass() -> None:
    q, k, v = inputs(2, 40)
    with torch.no_grad():
        whole = sp.attention(q, k, v, CAUSAL, **changes())
        cache = sp.KeyValueCache(CAUSAL, heads=4)
        parts = [
            cache.attend(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], **changes())
            for a, b in ((0, 7), (7, 8), (8, 33), (33, 40))
        ]
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=0, atol=1e-12)


def test_the_module_learns_sinks_and_a_table() -> None:
    table = nn.Parameter(sp.alibi(4, 6))
    module = sp.SparseSelfAttention(
        32, 4, CAUSAL, softcap=5.0, sinks=True, distance_bias=table, kv_heads=2
    )
    module(torch.randn(2, 15, 32)).square().sum().backward()
    assert module.sinks.grad.abs().min() > 0
    assert table.grad.abs().max() > 0
    assert "softcap=5.0, sinks=True, distance_bias of (4, 13)" in repr(module)
    fixed = sp.SparseSelfAttention(32, 4, CAUSAL, distance_bias=sp.alibi(4, 6))
    assert "distance_bias" in dict(fixed.named_buffers())
    plain = sp.SparseSelfAttention(32, 4, CAUSAL)
    assert len(plain.state_dict()) == 8


def test_every_kernel_says_what_it_cannot_do() -> None:
    on_gpu = {"device": "cuda", "dtype": torch.bfloat16}
    told = sp.explain(PATTERN, 64, heads=4, softcap=True, distance_bias=True, **on_gpu)
    reasons = {one.kernel: "; ".join(one.reasons) for one in told.verdicts}
    assert "do not cap" in reasons["xformers_fused"]
    assert "matrix of all" in reasons["xformers_fused"]
    told = sp.explain(PATTERN, 64, heads=4, sinks=True, **on_gpu)
    assert not any("sinks" in reason for one in told.verdicts for reason in one.reasons)
    learned = {"distance_bias": True, "needs_grad": True, "bias_grad": True}
    told = sp.explain(PATTERN, 64, heads=4, **learned)
    assert "no gradient of a bias" in str(told)
