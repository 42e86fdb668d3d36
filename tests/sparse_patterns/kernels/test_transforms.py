"""Torch's own tools around attention: autocast, `torch.func`, factors with gradients, compiling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import sparse_patterns as sp

PATTERN = sp.Window(3, 1) | sp.BatchGlobal()
MARKS = torch.zeros(2, 12, dtype=torch.bool)
MARKS[0, 0] = MARKS[1, 5] = True
REAL = torch.arange(12) < torch.tensor([[12], [9]])


def inputs(count: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(2, 2, 12, 8, dtype=dtype) for _ in range(count)]


def attend(q: Tensor, k: Tensor, v: Tensor, *own: Tensor, **options: Any) -> Tensor:
    masks = {"key_mask": REAL, "global_mask": MARKS}
    return sp.attention(q, k, v, PATTERN, global_qkv=own or None, **{**masks, **options})


def loss(*tensors: Tensor) -> Tensor:
    return attend(*tensors).square().sum()


@pytest.mark.parametrize("own", [False, True], ids=["one projection", "global_qkv"])
class TestReverseMode:
    """`torch.func` finds what `backward()` finds."""

    def test_grad_and_vjp(self, own: bool) -> None:
        tensors = inputs(6 if own else 3)
        numbers = tuple(range(len(tensors)))
        leaves = [x.clone().requires_grad_() for x in tensors]
        expected = torch.autograd.grad(loss(*leaves), leaves)
        found = torch.func.grad(loss, argnums=numbers)(*tensors)
        value, pull = torch.func.vjp(loss, *tensors)
        assert torch.equal(value, loss(*tensors))
        assert all(map(torch.equal, found, expected))
        assert all(map(torch.equal, pull(torch.ones_like(value)), expected))

    def test_gradients_of_each_example(self, own: bool) -> None:
        tensors = inputs(6 if own else 3)

        def one(mask: Tensor, marks: Tensor, *example: Tensor) -> Tensor:
            return loss_of(mask[None], marks[None], *(x[None] for x in example))

        def loss_of(mask: Tensor, marks: Tensor, *batch: Tensor) -> Tensor:
            return attend(*batch, key_mask=mask, global_mask=marks).square().sum()

        numbers = tuple(range(2, 2 + len(tensors)))
        found = torch.vmap(torch.func.grad(one, argnums=numbers))(REAL, MARKS, *tensors)
        leaves = [x.clone().requires_grad_() for x in tensors]
        expected = torch.autograd.grad(loss(*leaves), leaves)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_jacrev_is_a_row_for_each_output() -> None:
    q, k, v = inputs()
    few = sp.Window(1, 0)

    def total(q: Tensor) -> Tensor:
        return sp.attention(q, k, v, few).sum((0, 1, 3))

    found = torch.func.jacrev(total)(q)
    expected = torch.autograd.functional.jacobian(total, q)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [0, 2])
def test_vmap_over_queries_alone(dim: int) -> None:
    q, k, v = inputs()
    many = torch.stack([q, -q, 2 * q], dim)
    found = torch.vmap(lambda one: attend(one, k, v), in_dims=dim)(many)
    for one, expected in zip(found, (q, -q, 2 * q), strict=True):
        torch.testing.assert_close(one, attend(expected, k, v), rtol=1e-12, atol=1e-12)


def test_vmap_and_dropout() -> None:
    many = torch.ones(3, 1, 1, 12, 8)

    def one(x: Tensor) -> Tensor:
        return sp.attention(x, x, x, sp.Full(), dropout_p=0.5)

    with pytest.raises(RuntimeError, match="called random operation while in randomness"):
        torch.vmap(one)(many)
    with pytest.raises(NotImplementedError, match="dropout of attention that is equal for all"):
        torch.vmap(one, randomness="same")(many)
    first, second, third = torch.vmap(one, randomness="different")(many)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


# Torch builds its own forward-mode formulas with a tool of its own that it has deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
class TestForwardMode:
    """Refused, as zeros would be wrong in silence."""

    @pytest.mark.parametrize("number", range(3), ids=["q", "k", "v"])
    @pytest.mark.parametrize("transform", [torch.func.jacfwd, torch.func.hessian])
    def test_functions(self, number: int, transform: Callable[..., Any]) -> None:
        with pytest.raises(NotImplementedError, match="forward-mode derivatives of attention"):
            transform(loss, argnums=number)(*inputs())

    def test_jvp(self) -> None:
        tensors = tuple(inputs())
        with pytest.raises(NotImplementedError, match="forward-mode derivatives of attention"):
            torch.func.jvp(loss, tensors, tensors)

    def test_dual_numbers(self) -> None:
        q, k, v = inputs()
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(v, torch.ones_like(v))
            with pytest.raises(NotImplementedError, match="forward-mode derivatives of attention"):
                attend(q, k, dual)
            assert torch.equal(attend(q, k, v), attend(q, k, v))

    def test_scale(self) -> None:
        tensors = inputs()
        factor = torch.tensor(0.3, dtype=torch.float64)
        with pytest.raises(NotImplementedError, match="forward-mode derivatives of attention"):
            torch.func.jvp(lambda s: attend(*tensors, scale=s), (factor,), (factor,))


def test_several_gradients_at_once_are_refused_but_for_torch_func() -> None:
    q, k, v = inputs()
    out = attend(q.requires_grad_(), k, v)
    upstream = torch.randn(2, *out.shape, dtype=out.dtype)
    with pytest.raises(NotImplementedError, match=r"use torch\.func\.jacrev, or torch\.func\.vmap"):
        torch.autograd.grad(out, q, upstream, is_grads_batched=True, retain_graph=True)
    (_, back) = torch.func.vjp(lambda one: attend(one, k, v), q.detach())
    (found,) = torch.func.vmap(back)(upstream)
    for one, expected in zip(found, upstream, strict=True):
        (grad,) = torch.autograd.grad(out, q, expected, retain_graph=True)
        torch.testing.assert_close(one, grad, rtol=0, atol=1e-12)


def test_second_derivatives_are_refused() -> None:
    leaves = [x.requires_grad_() for x in inputs()]
    (grad,) = torch.autograd.grad(loss(*leaves), leaves[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        grad.sum().backward()


class TestScale:
    """A tensor is a factor of the queries, and gets its gradient."""

    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
    def test_gradient(self, shape: tuple[int, ...]) -> None:
        tensors = inputs(6)
        factor = torch.full(shape, 0.3, dtype=torch.float64, requires_grad=True)
        attend(*tensors, scale=factor).square().sum().backward()
        leaf = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        q, k, v, own_q, *own = tensors
        attend(q * leaf, k, v, own_q * leaf, *own, scale=1.0).square().sum().backward()
        assert float(leaf.grad.abs()) > 0.1
        torch.testing.assert_close(factor.grad, leaf.grad.expand(shape), rtol=1e-12, atol=1e-12)

    def test_half_types_keep_theirs(self) -> None:
        q, k, v = inputs(dtype=torch.bfloat16)
        factor = torch.tensor(0.25, requires_grad=True)
        out = attend(q, k, v, scale=factor)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out, attend(q, k, v, scale=0.25))
        out.sum().backward()
        assert factor.grad is not None

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("kind", [float, torch.tensor])
    def test_infinite(self, value: float, kind: Callable[[float], Any]) -> None:
        with pytest.raises(ValueError, match="scale must be finite, got"):
            attend(*inputs(), scale=kind(value))

    def test_cache(self) -> None:
        q, k, v = inputs()
        cache = sp.KeyValueCache(sp.Window(3, 0), heads=2)
        parts = [
            cache.attend(q[:, :, i : i + 6], k[:, :, i : i + 6], v[:, :, i : i + 6], scale=factor)
            for i, factor in ((0, torch.tensor(0.3)), (6, 0.3))
        ]
        expected = sp.attention(q, k, v, sp.Window(3, 0), scale=0.3)
        torch.testing.assert_close(torch.cat(parts, 2), expected, rtol=1e-6, atol=1e-6)


class TestAutocast:
    """Types are those of `scaled_dot_product_attention`."""

    @pytest.mark.parametrize("mixed", [False, True])
    @pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
    def test_as_torch(self, half: torch.dtype, mixed: bool) -> None:
        q, k, v = inputs(dtype=torch.float32)
        if mixed:
            k, v = k.to(half), v.double().float()
        with torch.autocast("cpu", half):
            out = attend(q, k, v)
            theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        assert out.dtype == theirs.dtype == half
        torch.testing.assert_close(out, attend(q.to(half), k.to(half), v.to(half)))

    def test_global_qkv(self) -> None:
        tensors = inputs(6, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            out = attend(*tensors)
        torch.testing.assert_close(out, attend(*(x.bfloat16() for x in tensors)))

    def test_gradients_have_the_types_of_their_inputs(self) -> None:
        q, k, v = (x.requires_grad_() for x in inputs(dtype=torch.float32))
        with torch.autocast("cpu", torch.bfloat16):
            attend(q, k, v).sum().backward()
        assert {x.grad.dtype for x in (q, k, v)} == {torch.float32}

    def test_float64_stays(self) -> None:
        tensors = inputs()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(attend(*tensors), attend(*tensors))
            assert attend(*tensors).dtype == torch.float64

    def test_cache(self) -> None:
        q, k, v = inputs(dtype=torch.float32)
        cache = sp.KeyValueCache(sp.Window(3, 0), heads=2)
        with torch.autocast("cpu", torch.bfloat16):
            out = torch.cat(
                [cache.attend(*(x[:, :, i : i + 4] for x in (q, k, v))) for i in (0, 4, 8)], 2
            )
            expected = sp.attention(q, k, v, sp.Window(3, 0))
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out, expected, rtol=0.02, atol=0.02)


class TestCompiled:
    """A pattern is a constant of a compiled program."""

    def test_a_pattern_made_inside_breaks_the_graph_and_is_right(self) -> None:
        q, k, v = inputs()

        def made_inside(q: Tensor) -> Tensor:
            return sp.attention(2 * q, k, v, sp.Window(2, 1) | sp.Global((0,)))

        torch.compiler.reset()
        assert torch.equal(torch.compile(made_inside, backend="eager")(q), made_inside(q))

    def test_or_is_refused_where_no_break_is_allowed(self) -> None:
        q, k, v = inputs()
        torch.compiler.reset()
        compiled = torch.compile(
            lambda q: sp.attention(q, k, v, sp.Window(2, 1)), backend="eager", fullgraph=True
        )
        with pytest.raises(Exception, match="pattern was made inside the compiled function"):
            compiled(q)
