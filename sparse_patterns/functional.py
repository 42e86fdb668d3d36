"""Attention with a pattern: the public function, and the operator behind it.

The operator is opaque to `torch.compile` and `torch.export`, with shapes and a backward
registered; the pattern travels as a string, and everything that depends on it happens when the
operator runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ForwardRef, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from sparse_patterns.config.handles import intern, look_up
from sparse_patterns.kernels import guard
from sparse_patterns.kernels.base import Call, Request, accumulation_dtype
from sparse_patterns.kernels.dispatch import KERNELS, check_kernel, choose
from sparse_patterns.kernels.examples import give
from sparse_patterns.kernels.scores.sinks import gradient as sink_gradient
from sparse_patterns.kernels.scores.terms import Scores
from sparse_patterns.kernels.transforms import (
    cast,
    in_torch_func,
    refuse_forward_mode,
    register,
    run,
    scaled_inputs,
)
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.fields import boolean
from sparse_patterns.spec.scores import check_devices, check_scores
from sparse_patterns.spec.validation import check_call, is_three_tensors


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    layer: int = 0,
    layers: int = 1,
    key_mask: Tensor | None = None,
    global_mask: Tensor | None = None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None = None,
    segment_ids: Tensor | None = None,
    q_offset: int | None = None,
    scale: float | Tensor | None = None,
    dropout_p: float = 0.0,
    kernel: str = "auto",
    return_lse: bool = False,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    distance_bias: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention over the pairs that a pattern makes visible.

        out[i] = sum_j softmax_j(scale * q[i] . k[j]) v[j]    over the visible j

    A query that sees no key gives zeros, with zero gradients. Softmax accumulates in float32
    (float64 for float64 inputs). Under autocast floating-point inputs are cast as by torch's
    `scaled_dot_product_attention`. Under `torch.compile`, make the pattern outside the compiled
    function; under `torch.export`, a `Rule` needs a function that can be imported by name.

    Args:
        q: Queries `(batch, heads, q_len, head_dim)`.
        k: Keys `(batch, kv_heads, kv_len, head_dim)`; `kv_heads` divides `heads`, and query head
            `h` uses key head `h // (heads // kv_heads)`.
        v: Values, of the shape of `k`.
        pattern: What attends to what.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        key_mask: bool `(batch, kv_len)`, True for a real token. A padded key is invisible; the row
            of a padded query is zeros.
        global_mask: bool `(batch, kv_len)`, True for a global token, for patterns with
            `BatchGlobal()`.
        global_qkv: Queries, keys and values of separate projections, of the shapes of `q, k, v`,
            that the rows of global tokens are computed from. All other rows use `q, k, v`, also for
            the columns of global keys.
        segment_ids: int `(batch, kv_len)`, for patterns with `SameDocument()`.
        q_offset: Position of query row 0; by default the queries are the last `q_len` positions.
        scale: Factor of the scores, `1 / sqrt(head_dim)` by default. A tensor of one element is a
            factor of `q` in the type of `q`, and gets its gradient.
        dropout_p: Probability of dropping a weight; seeded from torch's global generator.
        kernel: Name of a kernel, which is used or refused; "auto", the fastest by declared rates;
            or "tune", the fastest by measurement, made once for each case and kept on disk.
        return_lse: Also return the log-sum-exp of each row's scores.
        softcap: Scores become `softcap * tanh(score / softcap)`, after `distance_bias` is added.
        sinks: `(heads,)`, a logit of each head that takes weight in every row and has no value; the
            log-sum-exp counts it. A row that sees no key is zeros with it too.
        distance_bias: `(heads, 2 * m + 1)`: entry `clip(j - i, -m, m) + m` is added to the scaled
            score of query position `i` and key position `j`; see `alibi` and `t5_bias`.

    Returns:
        The output, of the shape and layout of `q`; with `return_lse` also `(batch, heads, q_len)`
        in the accumulation type, -inf (with `sinks`: the sink) for a query that sees no key.

    Raises:
        TypeError: An argument has the wrong type.
        NotImplementedError: A forward-mode derivative is asked for, a second derivative, or
            `torch.vmap` with the same dropout for all examples.
        ValueError: A shape or a number is not allowed, a mask is given to a pattern that does not
            read it, the pattern does not fit the heads or layers, or a named kernel cannot serve
            the call.
    """
    check_kernel(kernel)
    boolean("return_lse", return_lse)
    if isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor):
        q, k, v = cast(q, k, v)
        if is_three_tensors(global_qkv):
            global_qkv = cast(*global_qkv)
    check_call(
        q,
        k,
        v,
        pattern,
        key_mask,
        global_mask,
        global_qkv,
        segment_ids,
        dropout_p,
        layer,
        layers,
        q_offset,
    )
    cap = check_scores(softcap, sinks, distance_bias, q.shape[1])
    check_devices(q, sinks, distance_bias)
    factor, inputs = scaled_inputs(scale, q, k, v, global_qkv)
    added = score_tensors(q, sinks, distance_bias)
    offset = k.shape[2] - q.shape[2] if q_offset is None else q_offset
    seed = draw_seed() if dropout_p else None
    if not torch.compiler.is_compiling():
        give(key_mask, global_mask, segment_ids)
    given = Given(
        *inputs,
        *added,
        key_mask,
        global_mask,
        segment_ids,
        seed,
        intern(pattern),
        layer,
        layers,
        offset,
        factor,
        float(dropout_p),
        kernel,
        needs_grad(*inputs, *added),
        cap,
        wants_grad(added[1]),
    )
    out, lse, _ = run(_FORWARD, given)
    if not return_lse:
        return out
    if added[0] is not None:
        lse = torch.where(lse == -torch.inf, added[0][..., None], lse)
    return out, lse


def draw_seed() -> Tensor:
    """Draw the seed of a call's dropout from torch's global generator, int64 on the CPU."""
    return torch.randint(1 << 62, (), dtype=torch.int64, device="cpu")


def needs_grad(*tensors: Tensor | None) -> bool:
    """Return whether a backward pass may follow, which some kernels cannot run."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def score_tensors(
    q: Tensor, sinks: Tensor | None, distance_bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return sinks and bias as the operators take them: for each example, as sums are held.

    Raises:
        NotImplementedError: One of them carries a forward-mode derivative.
    """
    refuse_forward_mode(sinks, distance_bias)
    dtype = accumulation_dtype(q.dtype)
    spread = [
        None if x is None else x.to(dtype).expand(q.shape[0], *x.shape)
        for x in (sinks, distance_bias)
    ]
    return spread[0], spread[1]


def wants_grad(bias: Tensor | None) -> bool:
    """Return whether the gradient of a bias may be asked for; inside `torch.func` none can say."""
    return bias is not None and (needs_grad(bias) or in_torch_func())


class Given(NamedTuple):
    """What the operators are given: the tensors of a call, then the numbers and names."""

    q: Tensor
    k: Tensor
    v: Tensor
    global_q: Tensor | None
    global_k: Tensor | None
    global_v: Tensor | None
    sinks: Tensor | None
    distance_bias: Tensor | None
    key_mask: Tensor | None
    global_mask: Tensor | None
    segment_ids: Tensor | None
    seed: Tensor | None
    pattern: str
    layer: int
    layers: int
    q_offset: int
    scale: float
    dropout_p: float
    kernel: str
    needs_grad: bool
    softcap: float | None
    bias_grad: bool


_LEARNED = Given._fields.index("distance_bias") + 1

_SCHEMA_TYPES = {
    "Tensor": "Tensor",
    "Tensor | None": "Tensor?",
    "str": "str",
    "int": "SymInt",
    "float": "float",
    "float | None": "float?",
    "bool": "bool",
}


def schema_of(given: type[Any]) -> str:
    """Return the arguments of an operator, written as torch does, from those of a named tuple."""
    kinds = {
        name: kind.__forward_arg__ if isinstance(kind, ForwardRef) else str(kind)
        for name, kind in given.__annotations__.items()
    }
    return ", ".join(f"{_SCHEMA_TYPES[kind]} {name}" for name, kind in kinds.items())


def count_tensors(given: type[Any]) -> int:
    """Return how many of the arguments of an operator are tensors; they come first."""
    return sum("Tensor" in str(kind) for kind in given.__annotations__.values())


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


def differentiable(tensors: Sequence[Tensor | None], bias_grad: bool) -> list[int]:
    """Return which arguments have gradients: of inputs, sinks and bias, those that are given."""
    given = [n for n, x in enumerate(tensors[:_LEARNED]) if x is not None]
    return given if bias_grad else [n for n in given if n != _LEARNED - 1]


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
