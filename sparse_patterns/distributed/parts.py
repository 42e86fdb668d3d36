"""One call on one rank: what it needs from the others, found from lengths and masks alone."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from sparse_patterns.config.handles import look_up
from sparse_patterns.distributed.exchange import Shapes, Tree, gather
from sparse_patterns.distributed.layout import EMPTY, Group, Interval, layout_of, overlap
from sparse_patterns.distributed.strips import Positions, Whole
from sparse_patterns.kernels.base import accumulation_dtype


class Given(NamedTuple):
    """What the operators are given: the tensors of a call, then the numbers and names."""

    q: Tensor
    k: Tensor
    v: Tensor
    global_q: Tensor | None
    global_k: Tensor | None
    global_v: Tensor | None
    key_mask: Tensor | None
    global_mask: Tensor | None
    segment_ids: Tensor | None
    pattern: str
    layer: int
    layers: int
    scale: float
    kernel: str
    group: str
    needs_grad: bool


def join(parts: list[Tensor], like: Tensor, dim: int = 2) -> Tensor:
    """Return tensors joined along a dimension; none of them is a tensor without tokens."""
    if not parts:
        return like.narrow(dim, 0, 0)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def take(x: Tensor, at: Tensor) -> Tensor:
    """Return tokens of `(batch, heads, n, dim)`; `at` is `(batch or 1, m)`."""
    index = at[:, None, :, None].expand(x.shape[0], x.shape[1], -1, x.shape[3])
    return x.gather(2, index)


def add(total: Tensor, at: Tensor, grad: Tensor) -> None:
    """Add to the tokens that `take` returned; a token is named once."""
    index = at[:, None, :, None].expand_as(grad)
    total.scatter_add_(2, index, grad.to(total.dtype))


class Parts:
    """A call on one rank.

    Attributes:
        given: Its arguments.
        group: The group of processes.
        rank: The own rank in it.
        layout: The sequence over the ranks.
        whole: Masks of the sequence.
    """

    def __init__(self, given: Given, group: Any, lengths: list[int], whole: Whole) -> None:
        self.given, self.group, self.whole = given, group, whole
        self.rank = distributed.get_rank(group)
        q = given.q
        self.layout = layout_of(
            look_up(given.pattern), q.shape[1], given.layer, given.layers, tuple(lengths)
        )
        self.start, self.stop = self.layout.stretch(self.rank)
        self.dtype = accumulation_dtype(q.dtype)
        self.tree = Tree(group)
        self.others = [rank for rank in range(self.layout.ranks) if rank != self.rank]
        self._columns: dict[tuple[int, int], Tensor] = {}
        # Keys and values that the rows of global tokens see.
        own = (given.global_q, given.global_k, given.global_v)
        self.row_inputs = (
            (own[0], own[1], own[2])
            if own[0] is not None and own[1] is not None and own[2] is not None
            else (q, given.k, given.v)
        )

    @cached_property
    def near(self) -> Interval:
        """The keys that are computed together with the own ones."""
        return self.layout.reach(self.rank).near

    def near_of(self, receiver: int, owner: int) -> Interval:
        """Return what of an owner's stretch is near to a receiver."""
        return overlap(self.layout.reach(receiver).near, self.layout.stretch(owner))

    def far_of(self, receiver: int, owner: int) -> Interval:
        """Return what of an owner's stretch is far from a receiver, and seen."""
        return self.layout.reach(receiver).far_in(self.layout.stretch(owner))

    def columns_of(self, receiver: int, owner: int) -> Tensor:
        """Return the single keys of an owner's stretch that a receiver needs, int64."""
        pair = (receiver, owner)
        if pair not in self._columns:
            found = self.layout.columns_of(receiver, owner)
            self._columns[pair] = found.to(self.given.q.device)
        return self._columns[pair]

    @cached_property
    def shared(self) -> list[Positions]:
        """The global tokens of each rank that others see."""
        return [
            self._tokens(rank, self.layout.shared, self.layout.marked)
            for rank in range(self.layout.ranks)
        ]

    def unknown(self, places: Positions) -> Positions:
        """Return positions, those in the near and far keys of this rank not valid."""
        valid = torch.ones_like(places.at, dtype=torch.bool)
        if places.valid is not None:
            valid = places.valid
        reach = self.layout.reach(self.rank)
        for start, stop in (reach.near, reach.far):
            valid = valid & ((places.at < start) | (places.at >= stop))
        return Positions(places.at, valid)

    def _tokens(self, owner: int, fixed: Tensor, marked: Interval) -> Positions:
        """Return fixed tokens of an owner's stretch, and those marked in an interval."""
        start, stop = self.layout.stretch(owner)
        fixed = fixed[(fixed >= start) & (fixed < stop)].to(self.given.q.device)
        marks, seen = self.whole.global_mask, overlap(marked, (start, stop))
        if marks is None or seen == EMPTY:
            return Positions(fixed[None])
        wanted = torch.zeros_like(marks[:, start:stop])
        wanted[:, seen[0] - start : seen[1] - start] = marks[:, seen[0] : seen[1]]
        wanted[:, fixed - start] = True
        return _filled(wanted, start)

    @cached_property
    def rows(self) -> list[Positions]:
        """The rows of global tokens of each rank."""
        fixed = torch.tensor(self.layout.row_tokens, dtype=torch.int64, device="cpu")
        marked = (0, self.layout.length) if self.layout.batch_rows else EMPTY
        return [self._tokens(rank, fixed, marked) for rank in range(self.layout.ranks)]

    def is_row(self, group: Group, example: int, positions: Tensor) -> Tensor:
        """Return which positions are rows of global tokens for the heads of a group."""
        found = torch.isin(positions, positions.new_tensor(group.row_tokens))
        marks = self.whole.global_mask
        return (
            found | marks[example, positions] if group.batch_rows and marks is not None else found
        )

    @cached_property
    def overwritten(self) -> Tensor | None:
        """Which own rows are those of global tokens, bool `(batch, heads, rows)`; None for none."""
        own = self.rows[self.rank]
        if not own.at.shape[1]:
            return None
        q = self.given.q
        flags = torch.zeros(q.shape[:3], dtype=torch.bool, device=q.device)
        positions = torch.arange(self.start, self.stop, device=q.device)
        for group in self.layout.groups:
            for example in range(q.shape[0]):
                flags[example, list(group.heads)] = self.is_row(group, example, positions)
        return flags

    # What a message holds: near keys and values, then columns of both.

    def outgoing(self, k: Tensor, v: Tensor) -> dict[int, list[Tensor]]:
        """Return what each other rank needs of the own keys and values."""
        messages = {}
        for rank in self.others:
            start, stop = (x - self.start for x in self.near_of(rank, self.rank))
            columns = (self.columns_of(rank, self.rank) - self.start)[None]
            stop = max(start, stop)
            start, stop = max(0, start), max(0, stop)
            messages[rank] = [
                k[:, :, start:stop],
                v[:, :, start:stop],
                take(k, columns),
                take(v, columns),
            ]
        return messages

    def incoming(self) -> Shapes:
        """Return the shapes of what is needed of each other rank."""
        shapes = {}
        for rank in self.others:
            start, stop = self.near_of(self.rank, rank)
            near = self.of_keys(stop - start)
            columns = self.of_keys(self.columns_of(self.rank, rank).numel())
            shapes[rank] = [near, near, columns, columns]
        return shapes

    def of_keys(self, count: int) -> tuple[int, ...]:
        """Return the shape of some keys."""
        batch, heads, _, head_dim = self.given.k.shape
        return batch, heads, count, head_dim


def _filled(wanted: Tensor, start: int) -> Positions:
    """Return the marked positions of each example, filled up to one number.

    Args:
        wanted: bool `(batch, n)`.
        start: Position of the first.
    """
    counts = wanted.sum(1)
    most = int(counts.max()) if counts.numel() else 0
    order = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    valid = torch.arange(most, device=wanted.device) < counts[:, None]
    return Positions(order + start, valid)


def gather_masks(given: Given, flags: int, lengths: list[int], group: Any) -> Whole:
    """Return the masks of the whole sequence.

    Args:
        given: The arguments of this rank, where a mask may be missing that another one has.
        flags: Which masks some rank has, from `agreement.agree`.
        lengths: Length of each rank's stretch.
        group: The group.
    """
    from sparse_patterns.distributed.agreement import GLOBAL_MASK, KEY_MASK

    q = given.q
    shape = (q.shape[0], q.shape[2])

    def of(mask: Tensor | None, default: bool) -> Tensor:
        if mask is None:
            mask = torch.full(shape, default, device=q.device)
        own = mask.to(torch.uint8)
        return gather("gather the masks", own, lengths, group).bool()

    key_mask = of(given.key_mask, True) if flags & KEY_MASK else None
    marks = of(given.global_mask, False) if flags & GLOBAL_MASK else None
    if marks is not None and key_mask is not None:
        marks = marks & key_mask
    ids = given.segment_ids
    if ids is not None:
        ids = gather("gather the documents", ids.to(torch.int64), lengths, group)
    return Whole(sum(lengths), key_mask, marks, ids)
