"""Dispatch: which kernel serves a request, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from sparse_patterns.kernels import tuning
from sparse_patterns.kernels.base import Call, Kernel, Request
from sparse_patterns.kernels.block_sparse.kernel import XformersBlocksKernel
from sparse_patterns.kernels.dense import DenseKernel
from sparse_patterns.kernels.flex.kernel import FlexFlashKernel, FlexKernel
from sparse_patterns.kernels.fused.kernel import XformersFusedKernel
from sparse_patterns.kernels.sdpa.kernel import SdpaKernel
from sparse_patterns.kernels.tiles.kernel import TilesKernel
from sparse_patterns.lowering.plan import Plan, plan
from sparse_patterns.spec import arguments
from sparse_patterns.spec.arguments import data_type, probability, text
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.fields import LARGEST, boolean, integer
from sparse_patterns.spec.validation import check_lengths, check_pattern

KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        TilesKernel(),
        DenseKernel(),
        SdpaKernel(),
        XformersBlocksKernel(),
        FlexKernel(),
        XformersFusedKernel(),
        FlexFlashKernel(),
    )
}
"""Every kernel by name."""

_chosen: WeakKeyDictionary[Plan, dict[tuple[Any, ...], Kernel]] = WeakKeyDictionary()
"""Choices of "auto" by plan, and by everything of a request but its pattern."""

CHOICES = ("auto", "tune")
"""Names that leave the choice to this file: by declared rates, or by measurement."""


def choose(request: Request, made: Plan, kernel: str = "auto", call: Call | None = None) -> Kernel:
    """Return the kernel that serves a request.

    Args:
        request: What is asked for.
        made: Its plan.
        kernel: A name, which is honoured or refused; "auto": the fastest by declared rates; or
            "tune": the fastest by measurement, made the first time and remembered.
        call: The tensors, which "tune" measures on where nothing is remembered.

    Raises:
        ValueError: There is no kernel of that name, or it cannot serve the request; with all its
            reasons.
    """
    if kernel not in CHOICES:
        reasons = get_kernel(kernel).why_not(request)
        if reasons:
            raise ValueError(f"kernel {kernel!r} cannot serve this call: {'; '.join(reasons)}")
        return KERNELS[kernel]
    able = _able(request)
    if not able:
        reasons = [f"{name}: {'; '.join(one.why_not(request))}" for name, one in KERNELS.items()]
        raise ValueError(f"no kernel can serve this call: {' | '.join(reasons)}")
    if kernel == "tune" and call is not None:
        return able[tuning.fastest(call, made, able)]
    fields = (value for name, value in vars(request).items() if name != "pattern")
    key = (*able.values(), torch.get_num_threads(), *fields)
    of_plan = _chosen.setdefault(made, {})
    if key not in of_plan:
        of_plan[key] = _fastest(able, request, made)
    return of_plan[key]


def _fastest(able: dict[str, Kernel], request: Request, made: Plan) -> Kernel:
    """Return the kernel with the shortest estimate; one that cannot be it is not asked for its own.

    An estimate may need forms of the plan that take longer to make than the call.
    """
    best, shortest = None, float("inf")
    bounds = {one: one.at_least(request, made) for one in able.values()}
    for one in sorted(bounds, key=lambda one: bounds[one]):
        if best is None or bounds[one] < shortest:
            seconds = one.seconds(request, made)
            if best is None or seconds < shortest:
                best, shortest = one, seconds
    assert best is not None
    return best


def _able(request: Request) -> dict[str, Kernel]:
    """Return the kernels that may be chosen for a request."""
    return {
        name: one
        for name, one in KERNELS.items()
        if not one.by_name_only and not one.why_not(request)
    }


def check_kernel(name: object) -> str:
    """Return the name of a kernel or a way to choose one.

    Raises:
        TypeError: Not a string.
        ValueError: No such name.
    """
    if text("kernel", name) not in CHOICES:
        get_kernel(str(name))
    return str(name)


def get_kernel(name: str) -> Kernel:
    """Return a kernel by name.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in KERNELS:
        raise ValueError(
            f"kernel must be 'auto', 'tune' or one of {', '.join(KERNELS)}, got {name!r}"
        )
    return KERNELS[name]


@dataclass(frozen=True)
class Verdict:
    """What is said of one kernel.

    Attributes:
        kernel: Its name.
        chosen: Whether it would be taken.
        seconds: Estimated time of a forward pass, or of forward and backward where gradients are
            needed; None where it cannot serve.
        reasons: Why it cannot serve; empty if it can.
        measured: Measured seconds of a forward pass, or of forward and backward where gradients are
            needed; None where `kernel="tune"` has not measured it.
        caveats: What a caller has to know of it.
    """

    kernel: str
    chosen: bool
    seconds: float | None
    reasons: tuple[str, ...]
    measured: float | None = None
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Every kernel for one request, and the plan; prints as a table.

    Attributes:
        verdicts: One per kernel.
        plan: The plan.
        needs_grad: Whether measured times are of forward and backward.
    """

    verdicts: tuple[Verdict, ...]
    plan: Plan
    needs_grad: bool = False

    @property
    def chosen(self) -> str | None:
        """The kernel that would be taken, None if none can serve."""
        return next((verdict.kernel for verdict in self.verdicts if verdict.chosen), None)

    def __str__(self) -> str:
        made = self.plan
        back, forward = made.receptive_field
        lines = [
            f"{made.pattern!r}",
            f"  {made.q_len} queries x {made.kv_len} keys, {made.heads} heads in "
            f"{len(made.groups)} group{'s' if len(made.groups) != 1 else ''}",
            f"  density {made.density:.2%}, {made.flops / 1e9:.3g} GFLOP forward, "
            f"{made.computed / max(1, made.visible):.2f} pairs computed per visible pair, "
            f"sees {back} back and {forward} forward",
        ]
        width = max(len(verdict.kernel) for verdict in self.verdicts)
        for verdict in self.verdicts:
            state = "chosen" if verdict.chosen else "possible" if not verdict.reasons else "no"
            told = "; ".join(verdict.reasons)
            passes = "forward and backward" if self.needs_grad else "forward"
            if verdict.seconds is not None:
                told = f"about {verdict.seconds * 1e3:.3g} ms {passes}"
            if verdict.measured is not None:
                told += f", measured {verdict.measured * 1e3:.3g} ms {passes}"
            told = "; ".join([told, *verdict.caveats])
            lines.append(f"  {verdict.kernel:<{width}}  {state:<8}  {told}")
        return "\n".join(lines)

    __repr__ = __str__


def explain(
    pattern: Pattern,
    q_len: int,
    kv_len: int | None = None,
    *,
    heads: int,
    head_dim: int = 64,
    batch: int = 1,
    kv_heads: int | None = None,
    layer: int = 0,
    layers: int = 1,
    q_offset: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    key_mask: bool = False,
    global_mask: bool = False,
    global_qkv: bool = False,
    segment_ids: bool = False,
    dropout_p: float = 0.0,
    needs_grad: bool = False,
    softcap: bool = False,
    sinks: bool = False,
    distance_bias: bool = False,
    bias_grad: bool = False,
    kernel: str = "auto",
) -> Explanation:
    """Return for every kernel whether it is chosen, possible, or the reasons why not.

    With `kernel="tune"` the kernels are measured on random tensors where that has not been done
    before. What was measured, by this or by calls, is shown beside the estimates.

    Args:
        pattern: Any pattern.
        q_len: Number of queries.
        kv_len: Number of keys; `q_len` by default.
        heads: Query heads.
        head_dim: Size of a head.
        batch: Examples.
        kv_heads: Key and value heads; `heads` by default.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        q_offset: Position of query row 0; `kv_len - q_len` by default.
        dtype: Of queries, keys and values.
        device: Where they are.
        key_mask: Whether padded keys will be marked.
        global_mask: Whether global tokens of each example will be marked.
        global_qkv: Whether global rows will have projections of their own.
        segment_ids: Whether documents will be marked.
        dropout_p: Probability of dropping a weight.
        needs_grad: Whether a backward pass may follow.
        softcap: Whether scores will be capped.
        sinks: Whether heads will have sinks.
        distance_bias: Whether scores will get a bias by distance.
        bias_grad: Whether the gradient of that bias will be needed.
        kernel: Whose choice to explain: "auto", "tune" or the name of a kernel.

    Raises:
        TypeError: `pattern` is not a pattern, or another argument has the wrong type.
        ValueError: A number is not allowed, the pattern does not fit the heads or layers, or there
            is no kernel of that name.
    """
    check_kernel(kernel)
    check_pattern(pattern)
    heads = integer("heads", heads, 1, LARGEST)
    batch = integer("batch", batch, 0, LARGEST)
    kv_heads = heads if kv_heads is None else integer("kv_heads", kv_heads, 1, LARGEST)
    if heads % kv_heads:
        raise ValueError(f"kv_heads must divide heads ({heads}), got {kv_heads}")
    dtype, device = data_type("dtype", dtype), arguments.device("device", device)
    dropout_p = probability("dropout_p", dropout_p)
    boolean("key_mask", key_mask)
    boolean("global_mask", global_mask)
    boolean("global_qkv", global_qkv)
    boolean("segment_ids", segment_ids)
    boolean("needs_grad", needs_grad)
    boolean("softcap", softcap)
    boolean("sinks", sinks)
    boolean("distance_bias", distance_bias)
    boolean("bias_grad", bias_grad)
    if bias_grad and not (distance_bias and needs_grad):
        raise ValueError("bias_grad=True needs distance_bias=True and needs_grad=True")
    q_len, kv_len, q_offset = check_lengths(q_len, kv_len, q_offset)
    made = plan(
        pattern,
        q_len,
        kv_len,
        heads=heads,
        head_dim=head_dim,
        layer=layer,
        layers=layers,
        q_offset=q_offset,
    )
    request = Request(
        pattern=pattern,
        layer=layer,
        layers=layers,
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        q_len=q_len,
        kv_len=kv_len,
        q_offset=q_offset,
        head_dim=head_dim,
        dtype=dtype,
        device=device.type,
        key_mask=key_mask,
        global_mask=global_mask,
        global_qkv=global_qkv,
        segment_ids=segment_ids,
        dropout_p=dropout_p,
        needs_grad=needs_grad,
        softcap=softcap,
        sinks=sinks,
        distance_bias=distance_bias,
        bias_grad=bias_grad,
    )
    able = _able(request)
    best = None
    if kernel not in CHOICES:
        best = None if KERNELS[kernel].why_not(request) else KERNELS[kernel]
    elif able:
        call = tuning.example_call(request, device) if kernel == "tune" else None
        best = choose(request, made, kernel, call)
    measured = (tuning.known(request, able) or {}) if able else {}
    verdicts = []
    for name, one in KERNELS.items():
        reasons = tuple(one.why_not(request))
        seconds = None if reasons else one.seconds(request, made)
        caveats = () if reasons else tuple(one.caveats(request))
        verdicts.append(Verdict(name, one is best, seconds, reasons, measured.get(name), caveats))
    return Explanation(tuple(verdicts), made, needs_grad)
