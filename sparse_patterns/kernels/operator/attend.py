"""The operators of attention, forward and backward.

They are opaque to `torch.compile` and `torch.export`, with shapes and a backward registered; the
pattern travels as a string, and everything that depends on it happens when an operator runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from sparse_patterns.config.handles import look_up
from sparse_patterns.kernels import guard
from sparse_patterns.kernels.base import Call, Request, accumulation_dtype
from sparse_patterns.kernels.dispatch import KERNELS, choose
from sparse_patterns.kernels.operator.given import Given, count_tensors, differentiable, schema_of
from sparse_patterns.kernels.scores.sinks import gradient as sink_gradient
from sparse_patterns.kernels.scores.terms import Scores
from sparse_patterns.kernels.transforms import refuse_batches, refuse_forward_mode, register, run

_TENSORS, _ARGUMENTS = count_tensors(Given), schema_of(Given)
_OUTCOME = "Tensor out, Tensor lse, Tensor choice, Tensor grad_out, Tensor? grad_lse"


@torch.library.custom_op(
    "sparse_patterns::attend", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)"
)
def _attend(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, log-sum-exp, and the number of the kernel that was chosen."""
    out, lse, number = compute(Given(*given))
    return out, lse, torch.tensor(number, device="cpu")


def compute(given: Given) -> tuple[Tensor, Tensor, int]:
    """Return output, log-sum-exp, and the number of the kernel that was chosen."""
    call = _call(given)
    plan = call.request.plan
    # The types of the inputs are chosen by now; sums in a wider type must stay in it.
    with torch.autocast(call.q.device.type, enabled=False):
        chosen = choose(call.request, plan, given.kernel, call)
        out, lse = guard.forward(chosen, call, plan)
    return out, lse, list(KERNELS).index(chosen.name)


@_attend.register_fake
def _(q: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    lse = q.new_empty(q.shape[:3], dtype=accumulation_dtype(q.dtype))
    return torch.empty_like(q), lse, torch.empty((), dtype=torch.int64, device="cpu")


@torch.library.custom_op(
    "sparse_patterns::attend_backward",
    mutates_args=(),
    schema=f"({_OUTCOME}, {_ARGUMENTS}) -> Tensor[]",
)
def _attend_backward(
    out: Tensor, lse: Tensor, choice: Tensor, grad_out: Tensor, grad_lse: Tensor | None, *given: Any
) -> list[Tensor]:
    """Return the gradients by the kernel of the forward pass: another may draw other dropout."""
    return gradients(Given(*given), int(choice), out, lse, grad_out, grad_lse)


def gradients(
    given: Given,
    number: int,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None = None,
) -> list[Tensor]:
    """Return the gradients that are `differentiable`, by the kernel of a number."""
    call = _call(given)
    kernel = list(KERNELS.values())[number]
    with torch.autocast(call.q.device.type, enabled=False):
        plan = call.request.plan
        grads = list(guard.backward(kernel, call, plan, out, lse, grad_out, grad_lse))
    logits = call.scores.sinks
    if logits is not None:
        at = len(grads) - int(call.scores.bias_grad)
        grads.insert(at, sink_gradient(logits, out, lse, grad_out, grad_lse))
    return grads


@_attend_backward.register_fake
def _(
    out: Tensor,
    lse: Tensor,
    choice: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    *given: Any,
) -> list[Tensor]:
    return [torch.empty_like(given[n]) for n in differentiable(given, given[-1])]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*inputs[:_TENSORS], *output)
    ctx.plain = inputs[_TENSORS:]


def _differentiate(
    ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    *tensors, out, lse, choice = ctx.saved_tensors
    refuse_forward_mode(*tensors, grad_out, grad_lse)
    refuse_batches(grad_out, grad_lse)
    nothing = (None,) * len(Given._fields)
    if grad_out is None and grad_lse is None:
        return nothing
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    given = (out, lse, choice, grad_out, grad_lse, *tensors, *ctx.plain)
    grads = iter(run(_BACKWARD, given))
    wanted = differentiable(tensors, ctx.plain[-1])
    return tuple(next(grads) if n in wanted else None for n in range(len(nothing)))


_FORWARD, _BACKWARD = register(
    _attend,
    _attend_backward,
    _save,
    _differentiate,
    seed=Given._fields.index("seed"),
    outcome=_OUTCOME.count(",") + 1,
)


def attend(given: Given) -> tuple[Tensor, Tensor]:
    """Return output and log-sum-exp (without sinks), with gradients."""
    out, lse, _ = run(_FORWARD, given)
    return out, lse


def _call(given: Given) -> Call:
    """Return the call that a kernel takes."""
    q, k = given.q, given.k
    batch, heads, q_len, head_dim = q.shape
    request = Request(
        pattern=look_up(given.pattern),
        layer=given.layer,
        layers=given.layers,
        batch=batch,
        heads=heads,
        kv_heads=k.shape[1],
        q_len=q_len,
        kv_len=k.shape[2],
        q_offset=given.q_offset,
        head_dim=head_dim,
        dtype=q.dtype,
        device=q.device.type,
        key_mask=given.key_mask is not None,
        global_mask=given.global_mask is not None,
        global_qkv=given.global_q is not None,
        segment_ids=given.segment_ids is not None,
        dropout_p=given.dropout_p,
        needs_grad=given.needs_grad,
        softcap=given.softcap is not None,
        sinks=given.sinks is not None,
        distance_bias=given.distance_bias is not None,
        bias_grad=given.bias_grad,
    )
    own = None
    if given.global_q is not None and given.global_k is not None and given.global_v is not None:
        own = (given.global_q, given.global_k, given.global_v)
    masks = (given.key_mask, given.global_mask, given.segment_ids)
    seed = 0 if given.seed is None else int(given.seed)
    cap = None if given.softcap is None else float(given.softcap)
    scores = Scores(cap, given.sinks, given.distance_bias, given.bias_grad)
    return Call(request, q, k, given.v, own, *masks, float(given.scale), seed, scores)


@register_flop_formula(torch.ops.sparse_patterns.attend, get_raw=True)
def _flops(*given: Any, out_val: object = None) -> int:
    """Count the operations of a forward pass on visible pairs, for `FlopCounterMode`."""
    return flops(Given(*given))


def flops(given: Given, *, backward: bool = False) -> int:
    """Return the operations of a forward or a backward pass on visible pairs."""
    request = _call(given).request
    return request.batch * (request.plan.backward_flops if backward else request.plan.flops)


@register_flop_formula(torch.ops.sparse_patterns.attend_backward, get_raw=True)
def _backward_flops(*given: Any, out_val: object = None) -> int:
    """Count the operations of a backward pass on visible pairs, for `FlopCounterMode`."""
    return flops(Given(*given[-len(Given._fields) :]), backward=True)
