"""FlexAttention: torch's compiled attention, with a `BlockMask` made straight from the block table.

Nothing that differs between layers, heads or examples is part of the compiled code: windows,
dilations, padding and documents live in tensors that the mask reads (see `lowering.block_lists`),
and lengths of lists are marked as dynamic. So a model is compiled once for each shape of its
queries, forward and backward.

The backward pass calls the operator that autograd would call, with the output and the log-sum-exp
of the forward pass; nothing is computed twice. Where torch cannot compile that operator by itself,
autograd is asked, which costs a forward pass more (see `public`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sparse_patterns.kernels.base import Call, Kernel, Request, Tolerance
from sparse_patterns.kernels.flex import public
from sparse_patterns.kernels.flex.lists import lists_of
from sparse_patterns.kernels.flex.passes import backward_pass, forward_pass
from sparse_patterns.kernels.flex.terms import recording, terms_of
from sparse_patterns.kernels.global_rows import GlobalRows
from sparse_patterns.kernels.guard_device import LOWEST
from sparse_patterns.kernels.rates.read import rates, tolerances
from sparse_patterns.kernels.scores.terms import Distances, bias_gradient
from sparse_patterns.lowering.blocks.lists import SIZE, variant_of
from sparse_patterns.lowering.plan import Plan

MIN_HEAD_DIM, MAX_HEAD_DIM = 16, 256
"""Sizes of a head; smaller ones are filled up with zeros."""

COMPILATIONS = 64
"""Compilations kept of each pass, one for each shape, type and variant; beyond, an error."""

LARGEST_STEP = (1 << 31) - 1
"""Elements from the first to the last row of a head that torch's kernels count (pytorch#190857)."""

DYNAMIC = {1: (3,), 3: (3,), 5: (3,), 7: (3,), 9: (0,), 10: (0,), 11: (0,), 12: (0,)}
"""Dimensions of `BlockLists.tensors()` that differ from layer to layer."""


class FlexKernel(Kernel):
    """FlexAttention with block masks made from the plan.

    Attributes:
        backend: Backend of `torch.compile`, or None to run uncompiled where it can, which takes
            memory for all pairs.
    """

    name = "flex"
    replaces_hidden = True
    tolerances: ClassVar[Mapping[torch.dtype, Tolerance]] = {
        dtype: Tolerance(*allowed) for dtype, allowed in tolerances("flex").items()
    }

    flash: ClassVar[bool] = False

    def __init__(self, backend: str | Callable[..., Any] | None = "inductor") -> None:
        self.backend = backend

    def is_direct(self, call: Call) -> bool:
        """Return whether the backward operator is called by itself.

        By itself, the compiler finds no derivative of a capped score, nor one for a bias.
        """
        changed = call.scores.softcap is not None or call.scores.bias_grad
        return not self.flash and not changed and public.is_direct()

    def why_not(self, request: Request) -> list[str]:
        """Return the reasons why the request cannot be served, none if it can."""
        reasons = super().why_not(request)
        if request.device == "cuda":
            reasons += missing()
        else:
            reasons.append(f"runs on CUDA only, not on {request.device!r}")
        if request.dropout_p:
            reasons.append("FlexAttention has no dropout; set dropout_p=0")
        if request.bias_grad and torch.are_deterministic_algorithms_enabled():
            reasons.append(
                "FlexAttention sums the gradient of a bias in an order that differs between runs, "
                "and torch.use_deterministic_algorithms is on (distance_bias)"
            )
        if request.head_dim > MAX_HEAD_DIM:
            reasons.append(f"head_dim must be <= {MAX_HEAD_DIM}, got {request.head_dim}")
        return reasons

    def caveats(self, request: Request) -> list[str]:
        """Return what a caller has to know of a request that can be served."""
        if not request.bias_grad:
            return []
        return ["the gradient of distance_bias differs in its last bits from run to run"]

    def seconds(self, request: Request, plan: Plan) -> float:
        """Estimate the time from the full and the partial blocks."""
        own = rates(self.name)
        cost = 0.0
        for group in plan.groups:
            if group.forms.takes_example_tensors:
                of_group = own.partial_cost * group.forms.pairs_at_most / SIZE**2
            else:
                table = group.blocks(SIZE)
                full = int(table.full.sum())
                of_group = full + own.partial_cost * (table.row.numel() - full)
            cost += len(group.heads) * of_group
        # Two products forward, five backward.
        calls, products = (2, 7) if request.needs_grad else (1, 2)
        flops = 2 * products * max(MIN_HEAD_DIM, request.head_dim) * cost * SIZE**2
        return calls * own.call_seconds + request.batch * flops / own.flops(request.dtype)

    def forward(self, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp; see `Kernel.forward`."""
        rows = GlobalRows(call, plan, Distances.of_call(call))
        out = torch.zeros_like(call.q)
        lse = torch.full(call.q.shape[:3], -torch.inf, dtype=rows.dtype, device=call.q.device)
        if call.q.numel() and call.k.numel():
            found, logs = self._run(forward_pass, call, plan, _inputs(call))
            out.copy_(found[..., : out.shape[3]])
            lse.copy_(logs)
        rows.overwrite(out, lse)
        return out, lse

    def backward(
        self,
        call: Call,
        plan: Plan,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor,
        grad_lse: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Return the gradients; see `Kernel.backward`."""
        distances = Distances.of_call(call, backward=True)
        rows = GlobalRows(call, plan, distances)
        inputs = (call.q, call.k, call.v, *(call.global_qkv or ()))
        dtype = call.q.dtype if rows.overwritten is None else rows.dtype
        results = tuple(torch.zeros(x.shape, dtype=dtype, device=x.device) for x in inputs)
        if self.flash and (grad_lse is not None or call.scores.sinks is not None):
            raise ValueError(
                f"kernel {self.name!r} takes no gradient of the log-sum-exp; use kernel='flex'"
            )
        if call.q.numel() and call.k.numel() and not self.is_direct(call):
            # The forward pass counts the rows that others overwrite: nothing may come from them.
            shut, undefined = rows.shut(lse) == torch.inf, lse == LOWEST
            upstream, of_lse = grad_out, grad_lse
            if call.scores.sinks is not None:
                upstream, of_lse = public.before_sinks(
                    call.scores.sinks, out, lse, grad_out, grad_lse
                )
            upstream = upstream.masked_fill(shut[..., None], 0)
            if not self.flash:
                of_lse = torch.zeros_like(lse) if of_lse is None else of_lse
                # A score that a row does not see has no gradient, not even of NaN.
                of_lse = of_lse.masked_fill(undefined, torch.nan).masked_fill(shut, 0).detach()
                upstream = upstream.masked_fill(undefined[..., None], 0)
            found = self._by_autograd(call, plan, (_whole(upstream), of_lse))
            # A value is seen by the rows that see its key.
            found[2].masked_fill_(found[1][..., :1].isnan(), torch.nan)
            for result, grad in zip(results, found[:3], strict=False):
                result.copy_(grad[..., : result.shape[3]])
            if distances is not None and distances.grad is not None:
                # That of all examples together, where they have the same bias.
                distances.grad[: found[3].shape[0]] += found[3]
        elif call.q.numel() and call.k.numel():
            # The operator counts in powers of two.
            logs = rows.shut(lse) / math.log(2)
            grad_logs = torch.zeros_like(lse) if grad_lse is None else grad_lse * math.log(2)
            given = (_whole(out), logs.detach(), _whole(grad_out), grad_logs.detach())
            grads = self._run(backward_pass, call, plan, (*_inputs(call), *given))
            for result, grad in zip(results, grads, strict=False):
                result.copy_(grad[..., : result.shape[3]])
        rows.add_gradients(out, lse, grad_out, grad_lse, results)
        grads = tuple(result.to(x.dtype) for result, x in zip(results, inputs, strict=True))
        return (*grads, *bias_gradient(distances))

    def _run(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        call: Call,
        plan: Plan,
        inputs: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """Run a pass, compiled where there is a backend, on the lists of the call."""
        with self._ready(function, call, plan) as (ready, arguments):
            # Torch finds the derivative of changed scores by recording them.
            changed = arguments[-1] is not None
            with recording() if changed else nullcontext(), torch.no_grad():
                return ready(inputs, *arguments)

    def _by_autograd(
        self, call: Call, plan: Plan, upstream: tuple[Tensor, Tensor | None]
    ) -> tuple[Tensor, ...]:
        """Return the gradients through the public function; see `public.gradients`."""
        with self._ready(forward_pass, call, plan) as (ready, arguments):
            bias = arguments[-1][0] if call.scores.bias_grad else None
            return public.gradients(ready, _inputs(call), arguments, upstream, bias)

    @contextmanager
    def _ready(
        self, function: Callable[..., tuple[Tensor, ...]], call: Call, plan: Plan
    ) -> Iterator[tuple[Callable[..., tuple[Tensor, ...]], tuple[Any, ...]]]:
        """Give a pass, compiled where there is a backend, and its arguments after the inputs."""
        request = call.request
        variant = variant_of(request.pattern, request.heads, request.layers, request.kv_len)
        lists = lists_of(call, plan, variant.uniform).tensors()
        arguments = (lists, call.scale, variant.bits, self.flash, terms_of(call))
        if self.backend is None:
            yield function, arguments
            return
        import torch._dynamo

        for index, dimensions in DYNAMIC.items():
            torch._dynamo.maybe_mark_dynamic(lists[index], dimensions)
        # A scale is one number for a whole model: as a symbol it would only slow the code. The
        # limit is an argument of `torch.compile` in newer releases only.
        with torch._dynamo.config.patch(specialize_float=True, recompile_limit=COMPILATIONS):
            yield _compiled(function, self.backend), arguments


class FlexFlashKernel(FlexKernel):
    """FlexAttention on FlashAttention 4: torch's backend "FLASH", which is not chosen by itself.

    Its log-sum-exp has no gradient.
    """

    name = "flex_flash"
    by_name_only = True
    replaces_hidden = False  # its backward pass takes no log-sum-exp of another's making
    flash = True

    def why_not(self, request: Request) -> list[str]:
        """Return the reasons why the request cannot be served, none if it can."""
        reasons = super().why_not(request)
        if request.device == "cuda":
            reasons += public.why_not_flash(request.dtype, request.head_dim)
        changes = [name for name in ("softcap", "distance_bias") if getattr(request, name)]
        if changes:
            reasons.append(f"changed scores are left to the kernel flex ({', '.join(changes)})")
        if request.sinks and request.needs_grad:
            reasons.append(
                "the log-sum-exp has no gradient in the backend FLASH, and sinks take one (sinks)"
            )
        return reasons


def missing() -> list[str]:
    """Return what is missing on this machine, and how to get it."""
    reasons = []
    if public.version() < public.OLDEST:
        least = ".".join(map(str, public.OLDEST))
        reasons.append(
            f"torch {torch.__version__} is older than {least}: pip install 'torch>={least}'"
        )
    if not torch.cuda.is_available():
        reasons.append(
            f"torch {torch.__version__} finds no CUDA device: it takes an NVIDIA GPU and a build "
            "of torch for CUDA, see https://pytorch.org/get-started"
        )
    if find_spec("triton") is None:
        reasons.append("triton is not installed: pip install triton")
    return reasons


@cache
def _compiled(
    function: Callable[..., tuple[Tensor, ...]], backend: str | Callable[..., Any]
) -> Callable[..., tuple[Tensor, ...]]:
    # Falling back would compute all pairs without a warning, so a graph break is an error.
    compile: Any = torch.compile  # its overloads do not name the limit
    limit: dict[str, Any] = {}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        limit = {"recompile_limit": COMPILATIONS}
    compiled: Callable[..., tuple[Tensor, ...]] = compile(
        function, fullgraph=True, backend=backend, **limit
    )
    return compiled


def forget() -> None:
    """Forget what was compiled; the next call of each shape compiles again."""
    _compiled.cache_clear()


def _inputs(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    return _whole(call.q), _whole(call.k), _whole(call.v)


def _whole(x: Tensor) -> Tensor:
    """Return heads of a size that the operator takes, without elements that share memory.

    Whether a gradient is needed is not the operator's business here, and would be compiled in.
    """
    x = x.detach()
    missing = MIN_HEAD_DIM - x.shape[3]
    if missing > 0:
        return functional.pad(x, (0, missing))
    far = x.stride(2) * x.shape[2] > LARGEST_STEP
    return x.contiguous() if x.stride(3) != 1 or 0 in x.stride() or far else x
