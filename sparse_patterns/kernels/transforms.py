"""What torch's own tools ask of attention: autocast, `torch.func`, and factors with gradients.

`torch.func` (grad, vjp, jacrev, vmap and their compositions) cannot differentiate an operator that
was registered with `torch.library`; `run` gives it an `autograd.Function` around the same
operators. Forward-mode derivatives (jvp, `torch.autograd.forward_ad`) are refused: the operators
have none, and would return zeros without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sparse_patterns.spec.arguments import real

_FORWARD_MODE = (
    "forward-mode derivatives of attention (torch.func.jvp, jacfwd, hessian, "
    "torch.autograd.forward_ad) are not implemented; use reverse mode: torch.func.vjp, jacrev, or "
    "backward()"
)


def cast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values as torch's own attention takes them under autocast.

    Under autocast floating-point tensors are cast to its type, except float64 ones; else they are
    returned as they are.
    """
    device = q.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return q, k, v
    dtype = torch.get_autocast_dtype(device)
    return (
        q.to(dtype) if _is_cast(q, device) else q,
        k.to(dtype) if _is_cast(k, device) else k,
        v.to(dtype) if _is_cast(v, device) else v,
    )


def _is_cast(x: Tensor, device: str) -> bool:
    """Return whether autocast on a kind of device changes the type of a tensor."""
    return x.device.type == device and x.is_floating_point() and x.dtype != torch.float64


def scaled(scale: Any, q: Tensor, *more: Tensor) -> tuple[float, tuple[Tensor, ...]]:
    """Return the factor of the scores, and queries that hold it already where it is a tensor.

    Args:
        scale: A number, a tensor of one element (which keeps its gradient), or None.
        q: Queries `(batch, heads, q_len, head_dim)`.
        *more: Other queries to scale alike.

    Returns:
        The factor that is left to apply, and the queries.

    Raises:
        TypeError: `scale` is neither a number nor a tensor of a floating-point number.
        ValueError: `scale` is NaN or infinite, or a tensor of several elements.
    """
    if scale is None:
        return 1 / math.sqrt(max(1, q.shape[3])), (q, *more)
    if not isinstance(scale, Tensor):
        return real("scale", scale), (q, *more)
    if not scale.dtype.is_floating_point:
        raise TypeError(f"scale must be a floating-point number, got a tensor of {scale.dtype}")
    if scale.numel() != 1:
        raise ValueError(f"scale must be one number, got a tensor of shape {tuple(scale.shape)}")
    factor = scale.reshape(())
    if _is_readable(factor):
        real("scale", factor.item())
    return 1.0, tuple((x * factor).to(x.dtype) for x in (q, *more))


def _is_readable(scale: Tensor) -> bool:
    """Whether the value can be read at once: not while tracing, and not on a device that waits."""
    if torch.compiler.is_compiling() or in_torch_func():
        return False
    return type(scale) in (Tensor, torch.nn.Parameter) and scale.device.type == "cpu"


def scaled_inputs(
    scale: Any, q: Tensor, k: Tensor, v: Tensor, global_qkv: tuple[Tensor, Tensor, Tensor] | None
) -> tuple[float, tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]]:
    """Return the factor of the scores, and all inputs of a call, queries scaled as by `scaled`.

    Raises:
        TypeError: As `scaled`.
        ValueError: As `scaled`.
        NotImplementedError: As `refuse_forward_mode`.
    """
    own: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)
    if global_qkv is None:
        factor, (q,) = scaled(scale, q)
    else:
        factor, (q, own_q) = scaled(scale, q, global_qkv[0])
        own = (own_q, *global_qkv[1:])
    refuse_forward_mode(q, k, v, *own)
    return factor, (q, k, v, *own)


def refuse_forward_mode(*tensors: Tensor | None) -> None:
    """Refuse tensors that carry a forward-mode derivative, which would be lost.

    Raises:
        NotImplementedError: Inside `torch.func.jvp`, `jacfwd`, `hessian` or
            `torch.autograd.forward_ad`, of a tensor that has a tangent there.
    """
    if forward_ad._current_level < 0:
        return
    for one in tensors:
        if one is not None and forward_ad.unpack_dual(one).tangent is not None:
            raise NotImplementedError(_FORWARD_MODE)


def refuse_batches(*grads: Tensor | None) -> None:
    """Refuse several gradients at once, as autograd's own vectorization gives them.

    Raises:
        NotImplementedError: Inside `torch.autograd.grad(..., is_grads_batched=True)` or a function
            of `torch.autograd.functional` with `vectorize=True`.
    """
    for one in grads:
        if one is not None and torch._C._functorch.is_legacy_batchedtensor(one):
            raise NotImplementedError(
                "several gradients of attention at once (is_grads_batched=True of "
                "torch.autograd.grad, vectorize=True of torch.autograd.functional) are not "
                "implemented; use torch.func.jacrev, or torch.func.vmap over torch.func.vjp"
            )


def in_torch_func() -> bool:
    """Whether a transform of `torch.func` is active."""
    return bool(torch._C._are_functorch_transforms_active())


@dataclass(frozen=True)
class Formula:
    """An operator and its derivative.

    Attributes:
        operator: The registered operator; its outputs have the batch first, or no dimensions.
        save: `save(ctx, inputs, output)` keeps what the derivative needs.
        differentiate: `differentiate(ctx, *grads)` returns one gradient for each argument.
        seed: Which of the arguments is the seed of the dropout.
    """

    operator: Callable[..., Any]
    save: Callable[..., None]
    differentiate: Callable[..., tuple[Tensor | None, ...]]
    seed: int


def register(
    forward: Any,
    backward: Any,
    save: Callable[..., None],
    differentiate: Callable[..., tuple[Tensor | None, ...]],
    seed: int,
    outcome: int,
) -> tuple[Formula, Formula]:
    """Register the derivatives of an operator and of its backward, and `torch.vmap` of both.

    Args:
        forward: The operator, from `torch.library.custom_op`.
        backward: The operator of its gradients, which takes the outcome of the forward pass and the
            gradients of it, and then the arguments of the forward pass.
        save: As in `Formula`.
        differentiate: As in `Formula`.
        seed: Which of the arguments of `forward` is the seed of the dropout.
        outcome: How many arguments of `backward` come before those of the forward pass.

    Returns:
        The two, to be run by `run`.
    """
    forward.register_autograd(differentiate, setup_context=save)
    backward.register_autograd(_refuse_second, setup_context=_save_nothing)
    formulas = (
        Formula(forward, save, differentiate, seed),
        Formula(backward, _save_nothing, _refuse_second, outcome + seed),
    )
    for operator, formula in zip((forward, backward), formulas, strict=True):
        operator.register_vmap(partial(map_batch, formula))
    return formulas


def _save_nothing(ctx: Any, inputs: Any, output: Any) -> None:
    """Keep nothing, for an operator without a derivative."""


def _refuse_second(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
    """Refuse a derivative of the gradients.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError("second derivatives of attention are not implemented")


def run(formula: Formula, given: Sequence[Any]) -> Any:
    """Run an operator so that `torch.func` can differentiate it too."""
    if not in_torch_func():
        return formula.operator(*given)
    if torch.compiler.is_compiling():
        raise NotImplementedError(
            "a transform of torch.func around attention is not implemented inside torch.compile; "
            "call it outside, or differentiate by backward()"
        )
    return _Function.apply(formula, *given)


class _Function(torch.autograd.Function):
    """An operator as `torch.func` takes it; the first argument is the formula."""

    @staticmethod
    def forward(formula: Formula, *given: Any) -> Any:
        """Run the operator."""
        out = formula.operator(*given)
        return tuple(out) if isinstance(out, list) else out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what the backward pass needs."""
        formula = inputs[0]
        ctx.formula = formula
        formula.save(ctx, inputs[1:], output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients, none for the formula."""
        formula = ctx.formula
        return (None, *formula.differentiate(ctx, *grads))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Refuse a forward-mode derivative of a reverse-mode one."""
        raise NotImplementedError(_FORWARD_MODE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        """Fold the mapped dimension into the batch."""
        return map_batch(inputs[0], info, in_dims[1:], inputs[1:])


def map_batch(
    formula: Formula, info: Any, in_dims: Sequence[int | None], given: Sequence[Any]
) -> tuple[Any, Any]:
    """Run an operator under `torch.vmap`, with the mapped dimension as more examples of the batch.

    Args:
        formula: The operator.
        info: What `torch.vmap` says, of which the length of the mapped dimension is used.
        in_dims: Where it is in each argument, None where it is not.
        given: The arguments.

    Returns:
        The outputs with the mapped dimension first, and where it is in each of them.

    Raises:
        NotImplementedError: All mapped examples are to have the same dropout, which is drawn for
            each example of a batch anew.
    """
    if given[formula.seed] is not None and in_dims[formula.seed] is None:
        raise NotImplementedError(
            "dropout of attention that is equal for all examples of torch.vmap is not implemented; "
            "set dropout_p=0, or randomness='different'"
        )
    folded = []
    for index, (one, at) in enumerate(zip(given, in_dims, strict=True)):
        if isinstance(one, Tensor) and index == formula.seed and at is not None:
            folded.append(one.select(at, 0))
        elif not isinstance(one, Tensor) or (at is None and not one.ndim):
            folded.append(one)
        else:
            front = one.expand(info.batch_size, *one.shape) if at is None else one.movedim(at, 0)
            folded.append(front.flatten(0, 1))
    outputs = run(formula, folded)
    parts = [one.unflatten(0, (info.batch_size, -1)) if one.ndim else one for one in outputs]
    dims = [0 if one.ndim else None for one in outputs]
    return type(outputs)(parts), type(outputs)(dims)
