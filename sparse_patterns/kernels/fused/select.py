"""The partials of one call: what the lowering says, and what the batch's own tensors add to it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call
from sparse_patterns.lowering.fused.listed import Listed, list_columns
from sparse_patterns.lowering.fused.lower import Fused, lower_fused
from sparse_patterns.lowering.fused.partials import (
    Packed,
    Partial,
    pack_lists,
    pack_rectangles,
    to_families,
)
from sparse_patterns.lowering.fused.placement import place_in_example
from sparse_patterns.lowering.fused.stripes import Stripe
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.oracle import ExampleContext, visible


@dataclass(frozen=True, eq=False)
class Rows:
    """Some query rows.

    Attributes:
        index: int64 `(n,)`, into the rows of all examples in one line.
    """

    index: Tensor
    _on: dict[torch.device, Tensor] = field(default_factory=dict)

    def on(self, device: torch.device) -> Tensor:
        """Return the index on a device, copied there once."""
        if device not in self._on:
            self._on[device] = self.index.to(device)
        return self._on[device]


def _marked(rows: Tensor | None) -> Rows | None:
    """Return rows marked in a bool `(batch, q_len)`, None for none."""
    if rows is None or not rows.any():
        return None
    return Rows(rows.flatten().nonzero().flatten())


@dataclass(frozen=True, eq=False)
class Chosen:
    """The partials of some heads for one call.

    Attributes:
        partials: Partials with no pair in common.
        row_partials: Those of the rows of global tokens, which replace what the others find there.
        apart: The rows of global tokens, or None where there are none.
        padded: The rows of padded queries, or None where there are none.
    """

    partials: tuple[Partial, ...]
    row_partials: tuple[Packed, ...]
    apart: Rows | None
    padded: Rows | None


@dataclass(frozen=True, eq=False)
class _Held:
    """A tensor of a call, on the CPU, compared by what it holds when it is looked up."""

    tensor: Tensor


_recent: deque[_Held] = deque(maxlen=12)
"""Tensors of the last calls: the layers of a model are given the same ones."""


def choose_partials(call: Call, pattern: Pattern) -> Chosen:
    """Return the partials of the heads of one bound pattern; tensors are on the CPU."""
    request = call.request
    fused = lower_fused(pattern, request.q_len, request.kv_len)
    sizes = (request.q_len, request.kv_len, request.q_offset, request.batch)
    by_batch = fused.batch_rows or any(column.tokens is None for column in fused.columns)
    key_mask = _hold(call.key_mask)
    if key_mask is not None and bool(key_mask.tensor.all()):
        key_mask = None
    marks = _hold(call.global_mask if by_batch else None)
    return _choose_held(pattern, sizes, key_mask, marks, _hold(call.segment_ids))


def _hold(tensor: Tensor | None) -> _Held | None:
    """Return a tensor's values, the same object for equal ones."""
    if tensor is None:
        return None
    values = tensor.detach().cpu()
    for held in tuple(_recent):
        same = held.tensor.dtype == values.dtype and held.tensor.shape == values.shape
        if same and torch.equal(held.tensor, values):
            return held
    held = _Held(values.clone())
    _recent.append(held)
    return held


@lru_cache(maxsize=64)
def _choose_held(
    pattern: Pattern,
    sizes: tuple[int, int, int, int],
    key_mask: _Held | None,
    marks: _Held | None,
    segment_ids: _Held | None,
) -> Chosen:
    """Return the partials of a pattern, a shape and the tensors of a call, made once for each."""
    fused = lower_fused(pattern, *sizes[:2])
    documents = None
    if segment_ids is not None:
        documents = torch.unique(segment_ids.tensor, return_inverse=True)[1]
    real = None if key_mask is None else key_mask.tensor
    return _choose(fused, sizes, real, None if marks is None else marks.tensor, documents)


def _choose(
    fused: Fused,
    sizes: tuple[int, int, int, int],
    key_mask: Tensor | None,
    marks: Tensor | None,
    documents: Tensor | None,
) -> Chosen:
    q_len, kv_len, q_offset, batch = sizes
    if not q_len or not kv_len or not batch:
        return Chosen((), (), None, None)
    partials: list[Partial] = []
    for stripe in fused.stripes:
        if key_mask is None and not stripe.documents:
            partials += to_families(place_in_example(stripe, q_len, kv_len, q_offset))
            continue
        placed = [
            (example, one)
            for example in range(batch)
            for one in place_in_example(
                stripe, q_len, kv_len, q_offset, _of(key_mask, example), _of(documents, example)
            )
        ]
        partials += pack_rectangles(placed, q_len, kv_len, batch)
    if key_mask is not None and marks is not None:
        marks = marks & key_mask
    if fused.columns:
        partials += _columns(fused, sizes, key_mask, marks, documents)
    padded = None if key_mask is None else _at(~key_mask, q_len, q_offset)
    apart = torch.zeros(batch, q_len, dtype=torch.bool)
    rows = torch.tensor(fused.row_tokens, dtype=torch.int64) - q_offset
    apart[:, rows[(rows >= 0) & (rows < q_len)]] = True
    if fused.batch_rows and marks is not None:
        apart |= _at(marks, q_len, q_offset)
    row_partials: list[Packed] = []
    if apart.any():
        row_partials = _rows(fused, sizes, apart, padded, key_mask, marks, documents)
    return Chosen(tuple(partials), tuple(row_partials), _marked(apart), _marked(padded))


def _of(marks: Tensor | None, example: int) -> Tensor | None:
    return None if marks is None else marks[example]


def _at(marks: Tensor, q_len: int, q_offset: int) -> Tensor:
    """Read marks of keys `(batch, kv_len)` at the query rows, False outside the sequence."""
    length = marks.shape[1]
    positions = torch.arange(q_len) + q_offset
    inside = (positions >= 0) & (positions < length)
    if not length:
        return inside.expand(marks.shape[0], -1)
    return inside & marks[:, positions.clamp(0, length - 1)]


def _columns(
    fused: Fused,
    sizes: tuple[int, int, int, int],
    key_mask: Tensor | None,
    marks: Tensor | None,
    documents: Tensor | None,
) -> list[Packed]:
    """Return the partials of the listed keys that the stripes do not show already."""
    q_len, kv_len, q_offset, batch = sizes
    listed: list[tuple[int, Listed]] = []
    shared = key_mask is None and marks is None and documents is None
    made: Listed | None = None
    for example in range(batch):
        if not (shared and example):
            keys: list[tuple[Stripe, Tensor]] = []
            for column in fused.columns:
                own = torch.zeros(kv_len, dtype=torch.bool)
                if column.tokens is not None:
                    own[column.tokens] = True
                elif marks is not None:
                    own |= marks[example]
                keys.append((column.stripe, own))
            any_key = torch.stack([own for _, own in keys]).any(0)
            if key_mask is not None:
                any_key &= key_mask[example]
            tokens = any_key.nonzero().flatten()
            members = [(stripe, own[tokens]) for stripe, own in keys]
            made = list_columns(
                members, tokens, fused.stripes, q_len, q_offset, _of(documents, example)
            )
        if made is not None:
            listed.append((example, made))
    return pack_lists(listed, q_len, kv_len, batch)


def _rows(
    fused: Fused,
    sizes: tuple[int, int, int, int],
    apart: Tensor,
    padded: Tensor | None,
    key_mask: Tensor | None,
    marks: Tensor | None,
    documents: Tensor | None,
) -> list[Packed]:
    """Return the partial of the rows of global tokens, exactly as the pattern sees them."""
    q_len, kv_len, q_offset, batch = sizes
    listed: list[tuple[int, Listed]] = []
    everything = torch.arange(kv_len)
    whole = torch.zeros(kv_len, dtype=torch.bool)
    whole[list(fused.whole_tokens)] = True
    for example in range(batch):
        own = apart[example] if padded is None else apart[example] & ~padded[example]
        rows = own.nonzero().flatten()
        real = everything if key_mask is None else key_mask[example].nonzero().flatten()
        sees_all = whole[rows + q_offset]
        if fused.whole_batch and marks is not None:
            sees_all = sees_all | marks[example, rows + q_offset]
        if sees_all.any() and real.numel():
            all_rows = rows[sees_all]
            listed.append((example, Listed(all_rows, real, (all_rows.numel(),), (real.numel(),))))
        some = rows[~sees_all]
        if some.numel() and real.numel():
            context = ExampleContext(kv_len, _of(marks, example), _of(documents, example))
            seen = visible(fused.pattern, (some + q_offset)[:, None], real[None, :], context)
            seen = seen.expand(some.numel(), real.numel())
            counts = tuple(seen.sum(1).tolist())
            keys = real.expand_as(seen)[seen]
            listed.append((example, Listed(some, keys, (1,) * some.numel(), counts)))
    return pack_lists(listed, q_len, kv_len, batch)
