"""The tiled kernel: batched matrix products over the runs of a plan.

It is made for the CPU, and right everywhere. For each head, each run of tiles is taken some tiles
at a time: scores by one batched product over strided views of `q` and `k` (nothing is copied), a
mask on the columns that need one, exponentials in place, and a second product into the output.
Parts add up: numerators and denominators of disjoint parts are sums. Scores that are certain to
stay small (by Cauchy-Schwarz) are not shifted by their maximum; all others are, as in
FlashAttention (Dao et al. 2022). The backward pass computes the weights again from the log-sum-exp,
so memory grows with the length and not with the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call, Kernel, Request, Tolerance, accumulation_dtype
from sparse_patterns.kernels.selection import Selection, select
from sparse_patterns.plan import Plan
from sparse_patterns.runs import Part, Run

SCORES_AT_ONCE = 1 << 19
"""Scores computed at once: they should stay in the processor's second-level cache."""

HEAD_SECONDS, PIECE_SECONDS, FLOP_RATE = 100e-6, 20e-6, 200e9
"""Declared rates, for choosing a kernel: time of a head, of a piece, and operations per second."""

SAFE_SCORE = 40.0
"""Scores up to this need no shift: exp(40) times a million keys is far from float32's range."""


@dataclass
class Piece:
    """Some tiles of a run, or some rows of one tile: the unit of the inner loops.

    Shapes: C tiles, T rows, L keys, D head size.
    """

    run: Run
    tile: int
    tiles: int
    row: int
    rows: int

    @property
    def shared_keys(self) -> bool:
        """Whether all tiles see the same keys and their rows follow on each other."""
        run = self.run
        return run.k_tile == 0 and (self.tiles == 1 or run.q_tile == run.rows * run.q_step)

    def queries(self, x: Tensor) -> Tensor:
        """View rows of `x` `(n, D)` or `(n,)` as `(C, T, D)` or `(C, T)`; shared keys make C 1."""
        run = self.run
        start = run.q_start + self.tile * run.q_tile + self.row * run.q_step
        if self.shared_keys:
            return _strided(x, start, 1, self.tiles * self.rows, 0, run.q_step)
        return _strided(x, start, self.tiles, self.rows, run.q_tile, run.q_step)

    def keys(self, x: Tensor) -> Tensor:
        """View the keys of `x` `(n, D)` as `(C, L, D)`; C = 1 for shared keys."""
        run = self.run
        start = run.k_start + self.tile * run.k_tile
        tiles = 1 if self.shared_keys else self.tiles
        return _strided(x, start, tiles, run.keys, run.k_tile, run.k_step)

    def hide(self, x: Tensor, at: Selection, part: Part, additive: bool) -> None:
        """Hide what is not visible, in place.

        Args:
            x: `(C, T, L)`: scores, or their exponentials.
            at: What the masks of the example are.
            part: The part of the run.
            additive: Add -inf, for scores. Otherwise multiply by 0, for exponentials that are all
                finite: the exponential of -inf takes ten times as long as that of a number.
        """
        view = x.view(self.tiles, self.rows, -1)
        rows = slice(self.row, self.row + self.rows)
        for start, stop, factors in self.run.slabs:
            some = factors if factors.shape[0] == 1 else factors[self.tile : self.tile + self.tiles]
            _apply(view[:, :, start:stop], some[:, rows], additive)
        for factors in at.factors(view.shape, part, self.run, self.tile, self.row):
            _apply(view, factors, additive)

    def fold(self, total: Tensor, parts: Tensor) -> None:
        """Add what each tile contributes to its keys, `(C, L, D)`, to `total` `(n, D)`."""
        run = self.run
        start = run.k_start + self.tile * run.k_tile
        if parts.shape[0] == 1 or run.k_tile % run.k_step:
            self.keys(total).add_(parts)
            return
        width = max(1, run.k_tile // run.k_step)
        for column in range(0, run.keys, width):
            some = parts[:, column : column + width]
            at = start + column * run.k_step
            _strided(total, at, self.tiles, some.shape[1], run.k_tile, run.k_step).add_(some)


def _apply(x: Tensor, factors: Tensor, additive: bool) -> None:
    factors = factors.to(x.device)
    if additive:
        x.add_(factors.log())
    else:
        x.mul_(factors)


def _strided(x: Tensor, start: int, tiles: int, rows: int, tile_step: int, row_step: int) -> Tensor:
    step = x.stride(0)
    size = (tiles, rows, *x.shape[1:])
    stride = (tile_step * step, row_step * step, *x.stride()[1:])
    return x.as_strided(size, stride, x.storage_offset() + start * step)


def cut(run: Run) -> Iterator[Piece]:
    """Yield pieces of about `SCORES_AT_ONCE` scores."""
    tile = run.rows * run.keys
    if tile > SCORES_AT_ONCE:
        rows = max(1, SCORES_AT_ONCE // run.keys)
        for index in range(run.tiles):
            for row in range(0, run.rows, rows):
                yield Piece(run, index, 1, row, min(rows, run.rows - row))
        return
    count = max(1, SCORES_AT_ONCE // max(1, tile))
    if run.k_tile == 0 and run.q_tile != run.rows * run.q_step:
        count = 1
    for index in range(0, run.tiles, count):
        yield Piece(run, index, min(count, run.tiles - index), 0, run.rows)


def matmul(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Batched product into `out`; one matrix takes the path that uses all threads for it."""
    if a.shape[0] == 1:
        torch.mm(a[0], b[0], out=out[0])
    else:
        torch.bmm(a, b, out=out)


def add_matmul(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a batched product to `total`, in place."""
    if a.shape[0] == 1:
        total[0].addmm_(a[0], b[0])
    else:
        total.baddbmm_(a, b)


@dataclass
class Workspace:
    """Buffers that all pieces of a call share."""

    dtype: torch.dtype
    device: torch.device
    buffers: dict[str, Tensor] = field(default_factory=dict)

    def get(self, name: str, *shape: int) -> Tensor:
        """Return an uninitialised tensor, valid until the name is asked for again."""
        count = 1
        for size in shape:
            count *= size
        buffer = self.buffers.get(name)
        if buffer is None or buffer.numel() < count:
            buffer = torch.empty(count, dtype=self.dtype, device=self.device)
            self.buffers[name] = buffer
        return buffer[:count].view(shape)


@dataclass
class Side:
    """Queries, keys and values of one head as matrices of the accumulation type, queries scaled."""

    q: Tensor
    k: Tensor
    v: Tensor
    small: bool

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, scale: float, space: Workspace) -> Side:
        """Stage one head: `q` is copied, `k` and `v` only where layout or type requires it."""
        dtype = space.dtype
        scaled = torch.empty(q.shape, dtype=dtype, device=q.device)
        torch.mul(q.to(dtype), scale, out=scaled)
        k, v = _matrix(k, dtype), _matrix(v, dtype)
        bound = _longest(scaled) * _longest(k)
        return cls(scaled, k, v, bool(bound <= SAFE_SCORE))


def _longest(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dim=-1).amax()) if x.numel() else 0.0


def _matrix(x: Tensor, dtype: torch.dtype) -> Tensor:
    x = x.to(dtype)
    return x if _is_matrix(x) else x.contiguous()


def _is_matrix(x: Tensor) -> bool:
    """Return whether a BLAS library takes `x` as it lies."""
    return x.stride(-1) == 1 and x.stride(0) >= x.shape[1]


class Dropout:
    """Factors 0 and 1 / (1 - p), in one sequence for the forward and backward pass of a head."""

    def __init__(self, p: float, seed: int, device: torch.device) -> None:
        self.p = p
        self.generator = torch.Generator(device).manual_seed(seed % (1 << 63)) if p else None

    def apply(self, weights: Tensor, out: Tensor | None = None) -> Tensor | None:
        """Draw factors for the weights, multiply them in place, and return the factors."""
        if self.generator is None:
            return None
        factors = torch.empty_like(weights) if out is None else out
        factors.bernoulli_(1 - self.p, generator=self.generator)
        factors.div_(1 - self.p) if self.p < 1 else factors.zero_()
        weights.mul_(factors)
        return factors


def _scores(
    piece: Piece, side: Side, keys: Tensor, at: Selection, part: Part, space: Workspace
) -> Tensor:
    """Return the scores of a piece, `(C, T, L)`, in a buffer that the next piece reuses.

    Those of a side whose scores are small are not masked yet: their exponentials are to be.
    """
    q, k = piece.queries(side.q), piece.keys(keys)
    scores = space.get("scores", q.shape[0], q.shape[1], k.shape[1])
    matmul(q, k.mT, scores)
    if not side.small:
        piece.hide(scores, at, part, additive=True)
    return scores


def forward_parts(
    side: Side,
    parts: list[Part],
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
        for run in part.runs:
            for piece in cut(run):
                scores = _scores(piece, side, keys, at, part, space)
                target, sums = piece.queries(total), piece.queries(weight)
                if shift is not None:
                    old = piece.queries(shift)
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
                add_matmul(target, scores, piece.keys(values))
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
    parts: list[Part],
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
        for run in part.runs:
            for piece in cut(run):
                weights = _scores(piece, side, keys, at, part, space)
                weights.sub_(piece.queries(lse)[..., None]).exp_()
                if side.small:
                    piece.hide(weights, at, part, additive=False)
                upstream, v = piece.queries(grad_out), piece.keys(values)
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
                grad.sub_(piece.queries(delta)[..., None]).mul_(weights)
                add_matmul(piece.queries(grads.q), grad, piece.keys(keys))
                folded = space.get("folded", weights.shape[0], piece.run.keys, keys.shape[1])
                matmul(grad.mT, piece.queries(side.q), folded)
                piece.fold(grad_keys, folded)
        at.scatter(grads.k, grad_keys, part)
        at.scatter(grads.v, grad_values, part)


class TilesKernel(Kernel):
    """Batched matrix products over the tiles of the plan."""

    name = "tiles"
    tolerances: ClassVar[Mapping[torch.dtype, Tolerance]] = {
        torch.float64: Tolerance(1e-14, 2e-14),
        torch.float32: Tolerance(2e-6, 5e-6),
        torch.bfloat16: Tolerance(1.6e-2, 1e-2),
        torch.float16: Tolerance(2e-3, 1e-3),
    }

    def seconds(self, request: Request, plan: Plan) -> float:
        """Estimate the time from the pairs computed and the number of pieces."""
        pieces = 0
        for group in plan.groups:
            runs = [run for part in group.parts for run in part.runs]
            pieces += len(group.heads) * sum(1 + run.pairs // SCORES_AT_ONCE for run in runs)
        flops = 4 * request.head_dim * plan.computed
        seconds = HEAD_SECONDS * request.heads + PIECE_SECONDS * pieces + flops / FLOP_RATE
        return request.batch * seconds

    def forward(self, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp; see `Kernel.forward`."""
        heads = _Heads(call, plan)
        out = torch.empty_like(call.q)
        lse = torch.empty(call.q.shape[:3], dtype=heads.dtype, device=call.q.device)
        for example in range(call.request.batch):
            for head, at in enumerate(heads.selections(example)):
                dropout = heads.dropout(example, head)
                side = heads.side(example, head)
                target = out[example, head]
                usable = target.dtype == heads.dtype and _is_matrix(target)
                total, logs = forward_parts(
                    side, at.parts, at, dropout, heads.space, target if usable else None
                )
                for part in at.row_parts:
                    rows = part.queries
                    row_side = heads.row_side(side, part, example, head)
                    total[rows], logs[rows] = forward_parts(
                        row_side, [part], at, dropout, heads.space
                    )
                if at.padded.numel():
                    total[at.padded] = 0
                    logs[at.padded] = -torch.inf
                if not usable:
                    target.copy_(total)
                lse[example, head] = logs
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
        heads = _Heads(call, plan)
        inputs = (call.q, call.k, call.v, *(call.global_qkv or ()))
        results = tuple(torch.empty_like(x) for x in inputs)
        for example in range(call.request.batch):
            selections = heads.selections(example)
            for kv_head in range(call.request.kv_heads):
                sums = [
                    torch.zeros(x.shape[2:], dtype=heads.dtype, device=x.device) for x in inputs
                ]
                for head in range(kv_head * heads.share, (kv_head + 1) * heads.share):
                    for query_sum in sums[::3]:
                        query_sum.zero_()
                    at = selections[head]
                    upstream = _matrix(grad_out[example, head], heads.dtype)
                    delta = (upstream * out[example, head]).sum(-1)
                    if grad_lse is not None:
                        delta -= grad_lse[example, head]
                    # A row that sees nothing, or is padded, has weights exp(score - inf) = 0.
                    logs = lse[example, head].masked_fill(
                        lse[example, head] == -torch.inf, torch.inf
                    )
                    heads.add_gradients(example, head, at, logs, upstream, delta, sums)
                    for result, query_sum in zip(results[::3], sums[::3], strict=True):
                        result[example, head] = query_sum.mul_(call.scale)
                for index, total in enumerate(sums):
                    if index % 3:
                        results[index][example, kv_head] = total
        return results


class _Heads:
    """One call, head by head."""

    def __init__(self, call: Call, plan: Plan) -> None:
        self.call = call
        self.plan = plan
        self.dtype = accumulation_dtype(call.q.dtype)
        self.share = call.request.heads // max(1, call.request.kv_heads)
        self.space = Workspace(self.dtype, call.q.device)

    def selections(self, example: int) -> list[Selection]:
        """Return what each head of an example computes."""
        chosen: dict[int, Selection] = {}
        for group in self.plan.groups:
            at = select(self.call, group, example)
            chosen.update(dict.fromkeys(group.heads, at))
        return [chosen[head] for head in sorted(chosen)]

    def dropout(self, example: int, head: int) -> Dropout:
        """Return the dropout of a head, at its beginning."""
        number = example * self.call.request.heads + head
        seed = self.call.seed + number * 0x9E3779B97F4A7C15
        return Dropout(self.call.request.dropout_p, seed, self.call.q.device)

    def side(self, example: int, head: int) -> Side:
        """Return the matrices of a head."""
        call, kv_head = self.call, head // self.share
        k, v = call.k[example, kv_head], call.v[example, kv_head]
        return Side.of(call.q[example, head], k, v, call.scale, self.space)

    def row_side(self, side: Side, part: Part, example: int, head: int) -> Side:
        """Return the matrices that the rows of global tokens are computed from."""
        assert part.queries is not None
        rows = part.queries.to(side.q.device)
        if self.call.global_qkv is None:
            return Side(side.q[rows], side.k, side.v, side.small)
        q, k, v = self.call.global_qkv
        kv_head = head // self.share
        q = q[example, head].index_select(0, rows)
        return Side.of(q, k[example, kv_head], v[example, kv_head], self.call.scale, self.space)

    def add_gradients(
        self,
        example: int,
        head: int,
        at: Selection,
        logs: Tensor,
        upstream: Tensor,
        delta: Tensor,
        sums: list[Tensor],
    ) -> None:
        """Add one head's gradients to `sums`: those of `q, k, v` and, if given, of `global_qkv`."""
        dropout = self.dropout(example, head)
        side = self.side(example, head)
        own = logs.index_fill(0, at.apart, torch.inf)
        grads = Gradients(*sums[:3])
        backward_parts(side, at.parts, at, dropout, self.space, own, upstream, delta, grads)
        for part in at.row_parts:
            assert part.queries is not None
            rows = part.queries.to(logs.device)
            row_side = self.row_side(side, part, example, head)
            row_q = torch.zeros_like(row_side.q)
            grads = Gradients(row_q, *sums[-2:])
            backward_parts(
                row_side,
                [part],
                at,
                dropout,
                self.space,
                logs[rows],
                upstream[rows],
                delta[rows],
                grads,
            )
            sums[-3].index_add_(0, rows, row_q)
