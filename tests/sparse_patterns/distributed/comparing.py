"""A call on stretches of a sequence, compared with the same call on one process."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed

import sparse_patterns as sp

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
MASKS = ("key_mask", "global_mask", "segment_ids")


@dataclass(frozen=True)
class Case:
    """A call, and how its sequence is cut: the share of each rank, repeated as often as needed."""

    name: str
    pattern: sp.Pattern
    length: int
    cuts: tuple[int, ...] = (1,)
    heads: int = 2
    kv_heads: int | None = None
    batch: int = 1
    head_dim: int = 8
    dtype: torch.dtype = torch.float64
    masks: dict[str, Tensor] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    separate: bool = False

    def lengths(self, ranks: int) -> list[int]:
        """Cut the sequence in proportion to the shares; the last rank takes what is left."""
        shares = [self.cuts[rank % len(self.cuts)] for rank in range(ranks)]
        lengths = [self.length * share // max(1, sum(shares)) for share in shares]
        lengths[-1] = self.length - sum(lengths[:-1])
        return lengths

    def inputs(self) -> list[Tensor]:
        """Return queries, keys, values, those of global rows if separate, and given gradients."""
        generator = torch.Generator().manual_seed(len(self.name) + self.length)
        kv = self.kv_heads or self.heads
        shapes = [(self.batch, heads, self.length, self.head_dim) for heads in (self.heads, kv, kv)]
        shapes = shapes * (2 if self.separate else 1)
        shapes += [shapes[0], shapes[0][:3]]
        return [torch.randn(shape, generator=generator, dtype=self.dtype) for shape in shapes]


def run(attend: Any, case: Case, tensors: list[Tensor], masks: dict[str, Tensor]) -> list[Tensor]:
    """Return output, log-sum-exp and all gradients."""
    *inputs, grad_out, grad_lse = tensors
    inputs = [x.clone().requires_grad_() for x in inputs]
    own = tuple(inputs[3:]) or None
    out, lse = attend(
        *inputs[:3], case.pattern, global_qkv=own, return_lse=True, **masks, **case.options
    )
    seen = lse.detach() > -torch.inf
    total = (out * grad_out).sum() + (lse.masked_fill(~seen, 0) * grad_lse).sum()
    grads = torch.autograd.grad(total, inputs)
    return [out.detach(), lse.detach(), *grads]


def failures(case: Case, attend: Any = None) -> list[str]:
    """Return how the results on this group differ from those on one process; rank 0 knows.

    Args:
        case: The call.
        attend: What takes the place of `sp.distributed.attention`.
    """
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    lengths = case.lengths(ranks)
    start = sum(lengths[:rank])
    own = slice(start, start + lengths[rank])
    tensors = case.inputs()
    stretch = [x[:, :, own] for x in tensors]
    masks = {name: mask[:, own] for name, mask in case.masks.items()}
    results = run(attend or sp.distributed.attention, case, stretch, masks)
    gathered: list[Any] = [None] * ranks
    distributed.gather_object(results, gathered if rank == 0 else None)
    if rank:
        return []
    expected = run(sp.attention, case, tensors, case.masks)
    names = ("out", "lse", "dq", "dk", "dv", "global dq", "global dk", "global dv")
    found = []
    for name, want, *parts in zip(names, expected, *gathered, strict=False):
        got = torch.cat(parts, 2)
        if got.dtype != want.dtype or got.shape != want.shape:
            found.append(f"{case.name}: {name} is {got.dtype} {tuple(got.shape)}")
            continue
        if not torch.equal(got.isfinite(), want.isfinite()):
            found.append(f"{case.name}: {name} is finite elsewhere")
            continue
        scale = max([1.0, *want[want.isfinite()].abs().flatten().tolist()])
        off = max([0.0, *(got - want).nan_to_num(0, 0, 0).abs().flatten().tolist()]) / scale
        if off > TOLERANCES[case.dtype]:
            found.append(f"{case.name}, lengths {lengths}: {name} is off by {off:.2g}")
    return found
