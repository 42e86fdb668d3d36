"""Holds a kernel with a cap, sinks and a bias by distance to their definition in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.kernels.dispatch import KERNELS
from tests.contracts.kernels.holding import HEAD_DIM, largest, make_inputs, skip_refused
from tests.contracts.kernels.reference import global_rows
from tests.random_specs import Case

CHANGES = ("softcap", "sinks", "distance_bias")


@dataclass
class Changes:
    """What changes the scores, in float64."""

    softcap: float | None
    sinks: Tensor | None
    distance_bias: Tensor | None

    @property
    def learned(self) -> list[Tensor]:
        """Those that have gradients."""
        return [x for x in (self.sinks, self.distance_bias) if x is not None]


def changes_of(case: Case, names: tuple[str, ...]) -> Changes:
    """Draw some changes; the table is shorter than the distances of most cases."""
    generator = torch.Generator().manual_seed(case.seed + 1)
    m = 3 + case.seed * 7 % 40
    table = torch.randn(case.heads, 2 * m + 1, generator=generator).double()
    logits = torch.randn(case.heads, generator=generator).double()
    return Changes(
        1.5 if "softcap" in names else None,
        logits if "sinks" in names else None,
        table if "distance_bias" in names else None,
    )


def defined(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, q_offset: int, given: Changes
) -> tuple[Tensor, Tensor]:
    """Return output and log-sum-exp as they are defined, over a mask of all pairs."""
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if given.distance_bias is not None:
        m = given.distance_bias.shape[1] // 2
        i, j = torch.arange(q.shape[2])[:, None] + q_offset, torch.arange(k.shape[2])
        scores = scores + given.distance_bias[:, (j - i).clamp(-m, m) + m]
    if given.softcap is not None:
        scores = given.softcap * torch.tanh(scores / given.softcap)
    seen = mask.any(-1, keepdim=True)
    # Rows that see nothing are computed over all keys and then put aside: no NaN arises.
    scores = scores.masked_fill(~mask & seen, -torch.inf)
    nothing = torch.full(q.shape[:3], -torch.inf, dtype=q.dtype)
    sink = nothing if given.sinks is None else given.sinks[:, None].expand(q.shape[:3])
    if not scores.shape[-1]:
        return q * 0, sink
    lse = scores.logsumexp(-1)
    if given.sinks is not None:
        lse = torch.logaddexp(lse, sink)
    out = torch.exp(scores - lse[..., None]) @ v
    return out.masked_fill(~seen, 0), torch.where(seen[..., 0], lse, sink)


def asked_table(grads: tuple[Tensor, ...], given: Changes) -> Tensor | None:
    """Return the gradient of the table among those of a call, which is the last; None if not."""
    table = given.distance_bias
    return grads[-1] if table is not None and table.requires_grad else None


def hold_scores(
    kernel: str,
    case: Case,
    names: tuple[str, ...],
    dtype: torch.dtype = torch.float64,
    *,
    own: bool = False,
    learned_bias: bool = True,
) -> None:
    """Hold output, log-sum-exp and all gradients of a call with changed scores to the definition.

    Args:
        kernel: Its name.
        case: The call.
        names: Which of `CHANGES` are given.
        dtype: Of the inputs.
        own: Whether the rows of global tokens have projections of their own.
        learned_bias: Whether the gradient of the bias is asked for.
    """
    told = {name: name in names for name in CHANGES}
    told["bias_grad"] = learned_bias and "distance_bias" in names
    skip_refused(kernel, case, dtype, "cpu", global_qkv=own, head_dim=HEAD_DIM, **told)
    inputs, grad_out, grad_lse = make_inputs(case, dtype, own=own)
    exact = changes_of(case, names)
    context = case.mask_arguments()
    offset = case.kv_len - case.q_len if case.q_offset is None else case.q_offset

    leaves = [x.double().requires_grad_() for x in inputs]
    if exact.distance_bias is not None:
        exact.distance_bias.requires_grad_(learned_bias)
    if exact.sinks is not None:
        exact.sinks.requires_grad_()
    learned = [x for x in exact.learned if x.requires_grad]
    mask = sp.dense_mask(case.pattern, case.q_len, case.kv_len, **context)
    mask = mask.expand(case.batch, *mask.shape[-3:])
    out, lse = defined(*leaves[:3], mask, offset, exact)
    if own:
        rows = global_rows(case.pattern, case.batch, case.q_len, case.kv_len, **context)
        special, special_lse = defined(*leaves[3:], mask, offset, exact)
        out, lse = torch.where(rows[..., None], special, out), torch.where(rows, special_lse, lse)
    finite = torch.where(lse == -torch.inf, 0, lse)
    total = (out * grad_out.double()).sum() + (finite * grad_lse.double()).sum()
    want = torch.autograd.grad(total, [*leaves, *learned], allow_unused=True)

    copies = [x.detach().clone().requires_grad_() for x in inputs]
    given = Changes(
        exact.softcap,
        None if exact.sinks is None else exact.sinks.detach().clone().requires_grad_(),
        None
        if exact.distance_bias is None
        else exact.distance_bias.detach().clone().requires_grad_(learned_bias),
    )
    del context["heads"]
    got_out, got_lse = sp.attention(
        *copies[:3],
        case.pattern,
        global_qkv=tuple(copies[3:]) or None,
        kernel=kernel,
        return_lse=True,
        **vars(given),
        **context,
    )
    asked = [*copies, *(x for x in given.learned if x.requires_grad)]
    got = torch.autograd.grad([got_out, got_lse], asked, [grad_out, grad_lse.to(got_lse)])

    allowed = KERNELS[kernel].tolerances[dtype]
    seen = lse > -torch.inf
    assert torch.equal(got_lse > -torch.inf, seen), case
    assert largest(got_out, out.detach()) <= allowed.forward, case
    assert largest(got_lse[seen], lse.detach()[seen]) <= 4 * allowed.forward, case
    for one, other in zip(got, want, strict=True):
        other = torch.zeros_like(one) if other is None else other
        size = max(1.0, float(other.abs().max()) if other.numel() else 0.0)
        # An entry of the table is the sum over all rows, and keeps the rounding errors of each.
        sums = 4 if one is asked_table(got, given) else 1
        assert largest(one, other) <= sums * allowed.gradient * size, case
