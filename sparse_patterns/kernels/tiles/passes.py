"""The forward and the backward pass of the tiled kernel, over the parts of some heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.kernels.dropout import Dropout
from sparse_patterns.kernels.tiles.head import Side, Workspace
from sparse_patterns.kernels.tiles.listed import Listed, gathered, lists_of
from sparse_patterns.kernels.tiles.pieces import Piece, keys_of, queries_of, rows_of_pieces, trimmed
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
    """Return output `(heads, n, D)` and log-sum-exp `(heads, n)` of all rows, over some parts.

    The parts are disjoint. The output is built in `total` where that is given.
    """
    if total is None:
        total = side.v.new_empty(*side.q.shape[:2], side.v.shape[2])
    total.zero_()
    weight = total.new_zeros(side.q.shape[:2])
    shift = None if side.small else torch.full_like(weight, -torch.inf)
    for part in parts:
        order, listed = lists_of(part)
        keys, values = gathered(side.k, listed), gathered(side.v, listed)
        whole = (total, weight, *(() if shift is None else (shift,)))
        q, part_total, part_weight, *peaks = (gathered(x, order) for x in (side.q, *whole))
        for run in trimmed(part):
            for pieces in rows_of_pieces(run, q.shape[0]):
                of_queries = [queries_of(pieces, x) for x in (q, part_total, part_weight, *peaks)]
                of_keys = keys_of(pieces, keys), keys_of(pieces, values)
                for piece, rows, k, v in zip(
                    pieces, zip(*of_queries, strict=True), *of_keys, strict=True
                ):
                    own_q, target, sums, *old = rows
                    scores = _scores(piece, own_q, side, k, at, part, space)
                    if old:
                        _move_base(scores, target, sums, old[0])
                    elif side.shift:
                        scores.sub_(side.shift)
                    scores.exp_()
                    if side.small:
                        piece.hide(scores, at, part, additive=False)
                    sums.add_(scores.sum(-1))
                    dropout.apply(scores)
                    add_matmul(target, scores, v, space)
        if order is not None:
            for result, own in zip(whole, (part_total, part_weight, *peaks), strict=True):
                order.put(result, own)
    lse = weight.log()
    if shift is not None:
        lse += shift
    elif side.shift:
        lse += side.shift
    total.div_(weight.masked_fill_(weight == 0, 1)[..., None])
    return total, lse


@dataclass
class Gradients:
    """Where the gradients of some heads are added up, `(heads, n, D)` each."""

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
        side: The heads.
        parts: The parts of the forward pass.
        at: What the masks of the example are.
        dropout: A generator in the state that the forward pass began with.
        space: Buffers.
        lse: `(heads, n)` log-sum-exp of each row over all parts; +inf for a row that takes no part.
        grad_out: `(heads, n, D)`.
        delta: `(heads, n)` sum of output times its gradient, less the gradient of the log-sum-exp.
        grads: Where to add.
    """
    for part in parts:
        order, listed = lists_of(part)
        keys = _gathered("keys", side.k, listed, space)
        values = _gathered("values", side.v, listed, space)
        grad_keys, grad_values, grad_q = grads.k, grads.v, grads.q
        if listed is not None:
            grad_keys = space.get("key gradients", *keys.shape).zero_()
            grad_values = space.get("value gradients", *values.shape).zero_()
        q, part_grad = (
            _gathered(name, x, order, space)
            for name, x in (("queries", side.q), ("output gradients", grad_out))
        )
        part_lse, part_delta = (gathered(x, order)[..., None] for x in (lse, delta))
        if order is not None:
            grad_q = space.get("query gradients", *q.shape).zero_()
        for run in trimmed(part):
            for pieces in rows_of_pieces(run, q.shape[0]):
                of_queries = [
                    queries_of(pieces, x) for x in (q, part_grad, part_lse, part_delta, grad_q)
                ]
                of_keys = [keys_of(pieces, x) for x in (keys, values, grad_keys, grad_values)]
                for piece, rows, (k, v, add_k, add_v) in zip(
                    pieces, zip(*of_queries, strict=True), zip(*of_keys, strict=True), strict=True
                ):
                    own_q, upstream, own_lse, own_delta, add_q = rows
                    weights = _scores(piece, own_q, side, k, at, part, space)
                    weights.sub_(own_lse).exp_()
                    if side.small:
                        piece.hide(weights, at, part, additive=False)
                    grad = space.get("grad", *weights.shape)
                    matmul(upstream, v.mT, grad)
                    dropped = weights
                    if dropout.generator is not None:
                        dropped = space.get("dropped", *weights.shape).copy_(weights)
                        factors = dropout.apply(dropped, space.get("factors", *weights.shape))
                        assert factors is not None
                        grad.mul_(factors)
                    _add_to_keys(piece, grad_values, add_v, dropped, upstream, 1.0, space)
                    grad.sub_(own_delta).mul_(weights)
                    if side.terms is not None:
                        side.terms.differentiate(grad, piece, part, space)
                    add_matmul(add_q, grad, k, space, side.scale)
                    _add_to_keys(piece, grad_keys, add_k, grad, own_q, side.scale, space)
        if listed is not None:
            listed.add(grads.k, grad_keys)
            listed.add(grads.v, grad_values)
        if order is not None:
            order.add(grads.q, grad_q)


def _gathered(name: str, x: Tensor, listed: Listed | None, space: Workspace) -> Tensor:
    """Return the rows of a list in a buffer that the next part reuses, `x` where there is none."""
    if listed is None:
        return x
    return listed.gather(x, space.get(name, x.shape[0], listed.index.numel(), x.shape[2]))


def _move_base(scores: Tensor, target: Tensor, sums: Tensor, old: Tensor) -> None:
    """Subtract the largest score of each row so far, and let what was summed up before fade."""
    new = torch.maximum(old, scores.amax(-1))
    base = torch.where(new == -torch.inf, 0, new)
    scores.sub_(base[..., None])
    fade = (old - base).exp_()
    sums.mul_(fade)
    target.mul_(fade[..., None])
    old.copy_(new)


def _add_to_keys(
    piece: Piece,
    total: Tensor,
    own: Tensor,
    a: Tensor,
    b: Tensor,
    factor: float,
    space: Workspace,
) -> None:
    """Add `factor * a.mT @ b` of a piece to its keys `own` of `total` `(heads, n, D)`."""
    if piece.apart:
        add_matmul(own, a.mT, b, space, factor)
        return
    folded = space.get("folded", a.shape[0], a.shape[2], b.shape[2])
    matmul(a.mT, b, folded, factor)
    piece.fold(total, folded)


def _scores(
    piece: Piece,
    q: Tensor,
    side: Side,
    k: Tensor,
    at: Selection,
    part: PlanPart,
    space: Workspace,
) -> Tensor:
    """Return the scores of a piece, `(C, T, L)`, in a buffer that the next piece reuses.

    Those of a side whose scores are small are not masked yet: their exponentials are to be.

    Args:
        piece: The piece.
        q: Its queries, `(C, T, D)`.
        side: The heads.
        k: Its keys, `(C, L, D)`.
        at: What the masks of the example are.
        part: The part of the piece.
        space: Buffers.
    """
    scores = space.get("scores", q.shape[0], q.shape[1], k.shape[1])
    if side.terms is None:
        matmul(q, k.mT, scores, side.scale)
    else:
        side.terms.fill(scores, q, k, piece, part, space)
    if not side.small:
        piece.hide(scores, at, part, additive=True)
    return scores


def matmul(a: Tensor, b: Tensor, out: Tensor, factor: float = 1.0) -> None:
    """Batched product times a factor into `out`, which is contiguous."""
    add_product(out, a, b, 0, factor)


def add_product(total: Tensor, a: Tensor, b: Tensor, beta: float, factor: float) -> None:
    """Make `total` the sum of `beta * total` and `factor * a @ b`.

    One matrix takes the path that uses all threads for it.
    """
    if a.shape[0] == 1:
        total[0].addmm_(a[0], b[0], beta=beta, alpha=factor)
    else:
        total.baddbmm_(a, b, beta=beta, alpha=factor)


def add_matmul(total: Tensor, a: Tensor, b: Tensor, space: Workspace, factor: float = 1.0) -> None:
    """Add a batched product times a factor to `total`, in place."""
    heads, rows, width = total.shape
    if heads == 1 or total.stride(0) >= rows * total.stride(1):
        add_product(total, a, b, 1, factor)
    else:
        # Matrices that interleave would be taken one at a time.
        product = space.get("product", heads, rows, width)
        matmul(a, b, product, factor)
        total.add_(product)
