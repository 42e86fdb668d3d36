"""What a kernel is: it declares what it supports and its tolerance, and runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from sparse_patterns.kernels.examples import Examples, examples_of
from sparse_patterns.kernels.rates.work import Work
from sparse_patterns.kernels.scores.terms import PLAIN, Scores
from sparse_patterns.lowering.plan import Plan, plan
from sparse_patterns.spec.base import Pattern


@dataclass(frozen=True)
class Request:
    """Everything about a call that decides which kernel can and should serve it.

    Attributes:
        pattern: The pattern, not bound.
        layer: Layer, counted from 0.
        layers: Number of layers of the model.
        batch: Examples.
        heads: Query heads.
        kv_heads: Key and value heads.
        q_len: Queries.
        kv_len: Keys.
        q_offset: Position of query row 0.
        head_dim: Size of a head.
        dtype: Of queries, keys and values.
        device: Device type, as "cpu" or "cuda".
        key_mask: Whether padded keys are marked.
        global_mask: Whether global tokens of each example are marked.
        global_qkv: Whether global rows have projections of their own.
        segment_ids: Whether documents are marked.
        dropout_p: Probability of dropping a weight.
        needs_grad: Whether a backward pass may follow.
        softcap: Whether scores are capped.
        sinks: Whether heads have sinks.
        distance_bias: Whether scores get a bias by distance.
        bias_grad: Whether the gradient of that bias is needed.
    """

    pattern: Pattern
    layer: int
    layers: int
    batch: int
    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    q_offset: int
    head_dim: int
    dtype: torch.dtype
    device: str
    key_mask: bool = False
    global_mask: bool = False
    global_qkv: bool = False
    segment_ids: bool = False
    dropout_p: float = 0.0
    needs_grad: bool = False
    softcap: bool = False
    sinks: bool = False
    distance_bias: bool = False
    bias_grad: bool = False

    @property
    def plan(self) -> Plan:
        """The plan of the request, from the cache of plans."""
        return plan(
            self.pattern,
            self.q_len,
            self.kv_len,
            heads=self.heads,
            head_dim=max(1, self.head_dim),
            layer=self.layer,
            layers=self.layers,
            q_offset=self.q_offset,
        )


@dataclass(frozen=True, eq=False)
class Call:
    """The tensors and numbers of one call.

    Attributes:
        request: What is asked for.
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`.
        v: Of the shape of `k`.
        global_qkv: Separate projections for the rows of global tokens, of the shapes of `q, k, v`,
            or None.
        key_mask: bool `(batch, kv_len)` or None.
        global_mask: bool `(batch, kv_len)` or None.
        segment_ids: int `(batch, kv_len)` or None.
        scale: Factor of the scores.
        seed: Seed of the dropout.
        scores: What changes the scores. Sinks are not the kernel's business, see `kernels.guard`.
    """

    request: Request
    q: Tensor
    k: Tensor
    v: Tensor
    global_qkv: tuple[Tensor, Tensor, Tensor] | None
    key_mask: Tensor | None
    global_mask: Tensor | None
    segment_ids: Tensor | None
    scale: float
    seed: int
    scores: Scores = PLAIN

    @cached_property
    def examples(self) -> Examples:
        """The information in the masks of the batch, shared with calls that have equal ones."""
        request = self.request
        shape = (request.batch, request.q_len, request.kv_len, request.q_offset)
        masks = (self.key_mask, self.global_mask, self.segment_ids)
        return examples_of(shape, self.q.device, *masks)


@dataclass(frozen=True)
class Tolerance:
    """Largest differences from the float64 oracle on inputs of unit variance.

    Attributes:
        forward: Of the output and of the log-sum-exp.
        gradient: Of the gradients, relative to the largest element of each (or to 1 where that is
            larger).
    """

    forward: float
    gradient: float


class Kernel(ABC):
    """A way to run attention.

    Attributes:
        name: Name for `kernel=` and `explain`.
        tolerances: By dtype; a dtype that is not listed is not supported.
        by_name_only: Whether it runs only where it is named, never by "auto" or "tune".
        replaces_hidden: Whether the scores of hidden pairs are replaced by -inf, whatever they are,
            and weights of the backward pass come from the log-sum-exp that is given. Then nobody
            waits for a GPU to learn whether there were numbers that are not finite (see
            `kernels.guard_device`).
    """

    name: ClassVar[str]
    by_name_only: ClassVar[bool] = False
    replaces_hidden: ClassVar[bool] = False
    tolerances: ClassVar[Mapping[torch.dtype, Tolerance]]

    def why_not(self, request: Request) -> list[str]:
        """Return the reasons why the request cannot be served, none if it can."""
        if request.dtype in self.tolerances:
            return []
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in self.tolerances)
        return [f"dtype {str(request.dtype).removeprefix('torch.')} is not one of {allowed}"]

    def caveats(self, request: Request) -> list[str]:
        """Return what a caller has to know of a request that can be served."""
        return []

    def work(self, request: Request, plan: Plan) -> Work | None:
        """Return the work of a request by kind, from which `seconds` follows; None without.

        The kinds are those of the kernel's line in `rates/processors.json`.
        """
        return None

    def at_least(self, request: Request, plan: Plan) -> float:
        """Return a bound below `seconds` that takes no time to find, such as 0."""
        return 0.0

    @abstractmethod
    def seconds(self, request: Request, plan: Plan) -> float:
        """Return an estimate of the time, to compare kernels by.

        It is that of a forward pass or, where gradients are needed, of forward and backward.
        """

    @abstractmethod
    def forward(self, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return the output, laid out like `q`, and the log-sum-exp `(batch, heads, q_len)`.

        The log-sum-exp is float64 for float64 inputs and float32 for all others; -inf for a query
        that sees no key, whose output is zeros.
        """

    @abstractmethod
    def backward(
        self,
        call: Call,
        plan: Plan,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor,
        grad_lse: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Return the gradients of `q, k, v`, if given of `global_qkv`, and, if wanted, of the bias.

        The last is `call.scores.bias`, `(batch, heads, 2 * m + 1)`, where `bias_grad` is set.
        """


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type that scores and sums are held in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
