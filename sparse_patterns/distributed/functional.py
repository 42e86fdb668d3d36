"""Attention over a sequence that is cut among processes: the public function and its operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from sparse_patterns.config.handles import as_constant, intern, look_up
from sparse_patterns.distributed.agreement import GLOBAL_MASK, KEY_MASK, REFUSED, agree, text_of
from sparse_patterns.distributed.exchange import group_of
from sparse_patterns.distributed.layout import has_parts
from sparse_patterns.distributed.named_kernel import check_named
from sparse_patterns.distributed.parts import Given, Parts, gather_masks
from sparse_patterns.distributed.passes import backward, forward
from sparse_patterns.kernels.base import accumulation_dtype
from sparse_patterns.kernels.dispatch import check_kernel
from sparse_patterns.kernels.operator.given import count_tensors, schema_of
from sparse_patterns.kernels.operator.inputs import needs_grad
from sparse_patterns.kernels.transforms import (
    cast,
    refuse_batches,
    refuse_forward_mode,
    scaled_inputs,
)
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.fields import boolean
from sparse_patterns.spec.validation import check_call, is_three_tensors


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    group: Any = None,
    layer: int = 0,
    layers: int = 1,
    key_mask: Tensor | None = None,
    global_mask: Tensor | None = None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None = None,
    segment_ids: Tensor | None = None,
    scale: float | Tensor | None = None,
    dropout_p: float = 0.0,
    kernel: str = "auto",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of this process's stretch of a sequence, with the keys of all processes.

    The sequence is the stretches of the processes of a group, in the order of their ranks. Every
    process calls this with its own stretch, which may have any length, and gets its own rows; they
    equal those of `sparse_patterns.attention` on the whole sequence, and so do all gradients. Only
    keys that some row can see travel, see `traffic`. All processes must make the same calls in the
    same order, forward and backward.

    A `scale` with a gradient, or another parameter that every process has a copy of, gets the
    gradient of the own rows: add them over the processes, as for any parameter.

    Args:
        q: Queries of this stretch, `(batch, heads, length, head_dim)`.
        k: Keys of this stretch, `(batch, kv_heads, length, head_dim)`.
        v: Values, of the shape of `k`.
        pattern: What attends to what, in positions of the whole sequence.
        group: Processes that share the sequence; the default group of `torch.distributed` if None.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        key_mask: bool `(batch, length)`, True for a real token of this stretch; may be missing on
            processes without padding.
        global_mask: bool `(batch, length)`, True for a global token; likewise.
        global_qkv: As in `sparse_patterns.attention`, of this stretch.
        segment_ids: int `(batch, length)`; one document has one number on all processes.
        scale: As in `sparse_patterns.attention`.
        dropout_p: Must be 0: what one process would drop depends on the whole.
        kernel: As in `sparse_patterns.attention`, for the keys near to the stretch. Single columns
            and the rows of global tokens are computed densely.
        return_lse: Also return the log-sum-exp of each row's scores.

    Returns:
        The output of this stretch, of the shape and layout of `q`; with `return_lse` also
        `(batch, heads, length)` in the accumulation type.

    Raises:
        TypeError: An argument has the wrong type.
        NotImplementedError: As for `sparse_patterns.attention`, and for all of `torch.func`.
        ValueError: An argument is not allowed, here or on another process, or the processes make
            different calls: on all of them.
        RuntimeError: `torch.distributed` is not initialized, this process is not in the group, or
            another one died or did not answer within the timeout of the group.
    """
    name = _name_of(group)
    try:
        given = _given(
            q,
            k,
            v,
            pattern,
            name,
            layer,
            layers,
            key_mask,
            global_mask,
            global_qkv,
            segment_ids,
            scale,
            dropout_p,
            kernel,
            return_lse,
        )
    except (TypeError, ValueError, NotImplementedError) as error:
        if not torch.compiler.is_compiling():
            _report(error, name)
        raise
    out, lse, *_ = torch.ops.sparse_patterns.attend_stretch(*given)
    return (out, lse) if return_lse else out


def _given(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    group: str,
    layer: int,
    layers: int,
    key_mask: Tensor | None,
    global_mask: Tensor | None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None,
    segment_ids: Tensor | None,
    scale: float | Tensor | None,
    dropout_p: float,
    kernel: str,
    return_lse: bool,
) -> Given:
    """Check the arguments and return those of the operator."""
    check_kernel(kernel)
    boolean("return_lse", return_lse)
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            "transforms of torch.func around attention over several processes are not implemented; "
            "differentiate by backward()"
        )
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
        None,
    )
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            f"q and k must be one stretch of the sequence, got {q.shape[2]} queries and "
            f"{k.shape[2]} keys; a cache of earlier keys runs on one process"
        )
    if dropout_p:
        raise ValueError(
            f"dropout_p must be 0 over several processes, got {dropout_p}: what one process would "
            "drop depends on the whole sequence"
        )
    _check_device(q.device.type, group)
    factor, inputs = scaled_inputs(scale, q, k, v, global_qkv)
    return Given(
        *inputs,
        key_mask,
        global_mask,
        segment_ids,
        intern(pattern),
        layer,
        layers,
        factor,
        kernel,
        group,
        needs_grad(*inputs),
    )


@as_constant
def _name_of(group: Any) -> str:
    """Return the name of a group, by which the operator finds it."""
    if not distributed.is_available() or not distributed.is_initialized():
        raise RuntimeError(
            "attention over several processes needs a group: call "
            "torch.distributed.init_process_group first, or sp.attention on one process"
        )
    if group is None:
        group = distributed.group.WORLD
    if not isinstance(group, distributed.ProcessGroup):
        if group is distributed.GroupMember.NON_GROUP_MEMBER:
            raise RuntimeError("this process is not in the group that was given")
        raise TypeError(f"group must be a ProcessGroup or None, got {type(group).__name__}")
    return str(group.group_name)


@as_constant
def _check_device(device: str, name: str) -> None:
    """Refuse tensors where the group cannot send from."""
    allowed = _device_of(name)
    if device != allowed:
        backend = distributed.get_backend(group_of(name))
        raise ValueError(
            f"q, k and v must be on {allowed}, where the group's backend {backend!r} sends from, "
            f"got {device}"
        )


def _device_of(name: str) -> str:
    backend = str(distributed.get_backend(group_of(name)))
    return "cuda" if "nccl" in backend and "gloo" not in backend else "cpu"


def _report(error: Exception, name: str) -> None:
    """Tell the other processes that this one refused its arguments, so that none waits."""
    device = torch.device(_device_of(name))
    try:
        agree(str(error), 0, REFUSED, device, group_of(name))
    except ValueError:
        return


_TENSORS, _ARGUMENTS = count_tensors(Given), schema_of(Given)
_OUTCOME = "Tensor out, Tensor lse, Tensor notes, Tensor near_out, Tensor near_lse"


@torch.library.custom_op(
    "sparse_patterns::attend_stretch",
    mutates_args=(),
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _attend(*arguments: Any) -> tuple[Tensor, ...]:
    """Return output, log-sum-exp, notes for the backward pass, and results over the near keys.

    The notes are the number of the kernel, which masks there are, and the length of each rank.
    """
    given = Given(*arguments)
    group = group_of(given.group)
    lengths, flags = _agree(given, group)
    parts = Parts(given, group, lengths, gather_masks(given, flags, lengths, group))
    check_named(parts)
    with torch.autocast(given.q.device.type, enabled=False):
        out, lse, number, near_out, near_lse = forward(parts, _has_parts(given))
    notes = torch.tensor([number, flags, *lengths], device="cpu")
    return out, lse, notes, near_out, near_lse


@_attend.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    given = Given(*arguments)
    q = given.q
    lse = q.new_empty(q.shape[:3], dtype=accumulation_dtype(q.dtype))
    ranks = distributed.get_world_size(group_of(given.group))
    notes = torch.empty(2 + ranks, dtype=torch.int64, device="cpu")
    if _has_parts(given):
        return torch.empty_like(q), lse, notes, torch.empty_like(q), torch.empty_like(lse)
    return torch.empty_like(q), lse, notes, q.new_empty(0), lse.new_empty(0)


def _has_parts(given: Given) -> bool:
    pattern = look_up(given.pattern)
    return has_parts(pattern, int(given.q.shape[1]), given.layer, given.layers)


def _agree(given: Given, group: Any) -> tuple[list[int], int]:
    """Return the lengths of all ranks, and which masks there are, if all make the same call."""
    q, k = given.q, given.k
    call = (
        f"pattern={text_of(look_up(given.pattern))}, layer={given.layer} of {given.layers}, "
        f"batch={q.shape[0]}, heads={q.shape[1]}, kv_heads={k.shape[1]}, head_dim={q.shape[3]}, "
        f"dtype={q.dtype}, device={q.device.type}, scale={given.scale}, kernel={given.kernel!r}, "
        f"global_qkv={given.global_q is not None}, segment_ids={given.segment_ids is not None}, "
        f"gradients={given.needs_grad}"
    )
    flags = KEY_MASK * (given.key_mask is not None) | GLOBAL_MASK * (given.global_mask is not None)
    return agree(call, q.shape[2], flags, q.device, group)


@torch.library.custom_op(
    "sparse_patterns::attend_stretch_backward",
    mutates_args=(),
    schema=f"({_OUTCOME}, Tensor grad_out, Tensor? grad_lse, {_ARGUMENTS}) -> Tensor[]",
)
def _attend_backward(
    out: Tensor,
    lse: Tensor,
    notes: Tensor,
    near_out: Tensor,
    near_lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    *arguments: Any,
) -> list[Tensor]:
    """Return the gradients of the inputs that there are."""
    given = Given(*arguments)
    group = group_of(given.group)
    number, flags, *lengths = notes.tolist()
    parts = Parts(given, group, lengths, gather_masks(given, flags, lengths, group))
    with torch.autocast(given.q.device.type, enabled=False):
        return backward(
            parts, _has_parts(given), number, (out, lse, near_out, near_lse), grad_out, grad_lse
        )


@_attend_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    given = Given(*arguments[-len(Given._fields) :])
    return [torch.empty_like(x) for x in given[:6] if x is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*inputs[:_TENSORS], *output)
    ctx.plain = inputs[_TENSORS:]


def _differentiate(
    ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    *tensors, out, lse, notes, near_out, near_lse = ctx.saved_tensors
    refuse_forward_mode(*tensors, grad_out, grad_lse)
    refuse_batches(grad_out, grad_lse)
    # Also without a gradient of the own rows: other processes wait for this one.
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    grads = torch.ops.sparse_patterns.attend_stretch_backward(
        out, lse, notes, near_out, near_lse, grad_out, grad_lse, *tensors, *ctx.plain
    )
    return (*grads, *(None,) * (len(Given._fields) - len(grads)))


def _refuse_second(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
    raise NotImplementedError("second derivatives of attention are not implemented")


_attend.register_autograd(_differentiate, setup_context=_save)
_attend_backward.register_autograd(_refuse_second)
