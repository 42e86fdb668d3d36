"""The forward and the backward pass of the tiled kernel, over the parts of one head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.kernels.dropout import Dropout
from sparse_patterns.kernels.tiles.head import Side, Workspace
from sparse_patterns.kernels.tiles.pieces import Piece, cut
from sparse_patterns.kernels.tiles.selection import Selection
from sparse_patterns.lowering.tiles.runs import PlanPart


def forward_parts(
    side: Side,
    parts: list[PlanPart],
    at: Selection,
    dropout: Dropout,
    space: Workspace,
    total: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the output `(n, D)` and log-sum-exp `(n,)` of all rows of `side.q`, over some parts.

    The parts are disjoint. The output is built in `total` where that is given.
    """
    if total is None:
        total = side.v.new_empty(side.q.shape[0], side.v.shape[1])
    total.zero_()
    weight = total.new_zeros(side.q.shape[0])
    shift = None if side.small else torch.full_like(weight, -torch.inf)
    for part in parts:
        keys, values = at.gather(side.k, part), at.gather(side.v, part)
        whole = (total, weight, *(() if shift is None else (shift,)))
        q, part_total, part_weight, *peaks = in_order(part, side.scored, *whole)
        for run in part.runs:
            for piece in cut(run):
                scores = _scores(piece, q, side, keys, at, part, space)
                target, sums = piece.queries(part_total), piece.queries(part_weight)
                if peaks:
                    old = piece.queries(peaks[0])
                    new = torch.maximum(old, scores.amax(-1))
                    base = torch.where(new == -torch.inf, 0, new)
                    scores.sub_(base[..., None])
                    fade = (old - base).exp_()
                    sums.mul_(fade)
                    target.mul_(fade[..., None])
                    old.copy_(new)
                scores.exp_()
                if side.small:
                    piece.hide(scores, at, part, additive=False)
                sums.add_(scores.sum(-1))
                dropout.apply(scores)
                add_matmul(target, scores, piece.keys(values), space)
        if part.order is not None:
            order = part.order.to(q.device)
            for result, own in zip(whole, (part_total, part_weight, *peaks), strict=True):
                result.index_copy_(0, order, own)
    lse = weight.log() if shift is None else weight.log() + shift
    total.div_(weight.masked_fill_(weight == 0, 1)[:, None])
    return total, lse


@dataclass
class Gradients:
    """Where one head's gradients are added up, as `(n, D)`; that of `q` is of scaled queries."""

    q: Tensor
    k: Tensor
    v: Tensor


def backward_parts(
    side: Side,
    parts: list[PlanPart],
    at: Selection,
    dropout: Dropout,
    space: Workspace,
    lse: Tensor,
    grad_out: Tensor,
    delta: Tensor,
    grads: Gradients,
) -> None:
    """Add the gradients of disjoint parts.

    Args:
        side: The head.
        parts: The parts of the forward pass.
        at: What the masks of the example are.
        dropout: A generator in the state that the forward pass began with.
        space: Buffers.
        lse: `(n,)` log-sum-exp of each row over all parts; +inf for a row that takes no part.
        grad_out: `(n, D)`.
        delta: `(n,)` sum of output times its gradient, less the gradient of the log-sum-exp.
        grads: Where to add.
    """
    for part in parts:
        keys, values = at.gather(side.k, part), at.gather(side.v, part)
        grad_keys = grads.k if part.keys is None else torch.zeros_like(keys)
        grad_values = grads.v if part.keys is None else torch.zeros_like(values)
        inputs = (side.q, side.scored, lse, grad_out, delta)
        q, scored, part_lse, part_grad, part_delta = in_order(part, *inputs)
        grad_q = grads.q if part.order is None else torch.zeros_like(q)
        for run in part.runs:
            for piece in cut(run):
                weights = _scores(piece, scored, side, keys, at, part, space)
                weights.sub_(piece.queries(part_lse)[..., None]).exp_()
                if side.small:
                    piece.hide(weights, at, part, additive=False)
                upstream, v = piece.queries(part_grad), piece.keys(values)
                grad = space.get("grad", *weights.shape)
                matmul(upstream, v.mT, grad)
                folded = space.get("folded", weights.shape[0], v.shape[1], v.shape[2])
                if dropout.generator is None:
                    matmul(weights.mT, upstream, folded)
                else:
                    dropped = space.get("dropped", *weights.shape).copy_(weights)
                    factors = dropout.apply(dropped, space.get("factors", *weights.shape))
                    matmul(dropped.mT, upstream, folded)
                    assert factors is not None
                    grad.mul_(factors)
                piece.fold(grad_values, folded)
                grad.sub_(piece.queries(part_delta)[..., None]).mul_(weights)
                if side.terms is not None:
                    side.terms.differentiate(grad, piece, part, space)
                add_matmul(piece.queries(grad_q), grad, piece.keys(keys), space)
                folded = space.get("folded", weights.shape[0], piece.run.keys, keys.shape[1])
                matmul(grad.mT, piece.queries(q), folded)
                piece.fold(grad_keys, folded)
        at.scatter(grads.k, grad_keys, part)
        at.scatter(grads.v, grad_values, part)
        if part.order is not None:
            grads.q.index_add_(0, part.order.to(q.device), grad_q)


def in_order(part: PlanPart, *whole: Tensor) -> list[Tensor]:
    """Return the rows of each matrix in the order of a part; the matrices where it has none."""
    if part.order is None:
        return list(whole)
    order = part.order.to(whole[0].device)
    return [x.index_select(0, order) for x in whole]


def _scores(
    piece: Piece,
    queries: Tensor,
    side: Side,
    keys: Tensor,
    at: Selection,
    part: PlanPart,
    space: Workspace,
) -> Tensor:
    """Return the scores of a piece, `(C, T, L)`, in a buffer that the next piece reuses.

    Those of a side whose scores are small are not masked yet: their exponentials are to be.
    `queries` are those that scores are made of, in the order of the part.
    """
    q, k = piece.queries(queries), piece.keys(keys)
    scores = space.get("scores", q.shape[0], q.shape[1], k.shape[1])
    if side.terms is None:
        matmul(q, k.mT, scores)
    else:
        side.terms.fill(scores, q, k, piece, part, space)
    if not side.small:
        piece.hide(scores, at, part, additive=True)
    return scores


def matmul(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Batched product into `out`; one matrix takes the path that uses all threads for it."""
    if a.shape[0] == 1:
        torch.mm(a[0], b[0], out=out[0])
    else:
        torch.bmm(a, b, out=out)


def add_matmul(total: Tensor, a: Tensor, b: Tensor, space: Workspace) -> None:
    """Add a batched product to `total`, in place."""
    tiles, rows, width = total.shape
    if tiles == 1:
        total[0].addmm_(a[0], b[0])
    elif total.stride(0) >= rows * total.stride(1):
        total.baddbmm_(a, b)
    else:
        # Matrices that interleave would be taken one at a time.
        total.add_(torch.bmm(a, b, out=space.get("product", tiles, rows, width)))
