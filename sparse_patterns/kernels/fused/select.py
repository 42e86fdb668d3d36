"""The partials of one call: those of the lowering and those of the masks of the batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call
from sparse_patterns.kernels.examples import Examples
from sparse_patterns.lowering.fused.listed import ListedKeys, list_columns
from sparse_patterns.lowering.fused.lower import Fused
from sparse_patterns.lowering.fused.partials import (
    Packed,
    Partial,
    pack_lists,
    pack_rectangles,
    to_families,
)
from sparse_patterns.lowering.fused.placement import place_in_example
from sparse_patterns.lowering.fused.stripes import Stripe
from sparse_patterns.lowering.plan import Group
from sparse_patterns.spec.oracle import ExampleContext, visible


@dataclass(frozen=True, eq=False)
class RowIndex:
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


def _marked(rows: Tensor | None) -> RowIndex | None:
    """Return rows marked in a bool `(batch, q_len)`, None for none."""
    if rows is None or not rows.any():
        return None
    return RowIndex(rows.flatten().nonzero().flatten())


@dataclass(frozen=True, eq=False)
class Chosen:
    """The partials of some heads for one call.

    Attributes:
        partials: Partials with no pair in common.
        row_partials: Those of the rows of global tokens, which replace what the others find there.
        overwritten: The rows of global tokens, or None where there are none.
        padded: The rows of padded queries, or None where there are none.
    """

    partials: tuple[Partial, ...]
    row_partials: tuple[Packed, ...]
    overwritten: RowIndex | None
    padded: RowIndex | None


def choose_partials(call: Call, group: Group) -> Chosen:
    """Return the partials of a group's heads; tensors are on the CPU."""
    here = call.examples.on_cpu()
    return here.keep(("partials", group.forms), lambda: _choose(group.fused, here))


def _choose(fused: Fused, examples: Examples) -> Chosen:
    sizes = (examples.q_len, examples.kv_len, examples.q_offset, examples.batch)
    q_len, kv_len, q_offset, batch = sizes
    key_mask, marks, documents = examples.key_mask, examples.global_mask, examples.documents
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
    if fused.columns:
        partials += _columns(fused, sizes, key_mask, marks, documents)
    padded = examples.padded_rows
    overwritten = torch.zeros(batch, q_len, dtype=torch.bool, device="cpu")
    rows = torch.tensor(fused.row_tokens, dtype=torch.int64, device="cpu") - q_offset
    overwritten[:, rows[(rows >= 0) & (rows < q_len)]] = True
    if fused.batch_rows and marks is not None:
        overwritten |= examples.at_queries(marks, outside=False)
    row_partials: list[Packed] = []
    if overwritten.any():
        row_partials = _rows(fused, sizes, overwritten, padded, key_mask, marks, documents)
    return Chosen(tuple(partials), tuple(row_partials), _marked(overwritten), _marked(padded))


def _of(marks: Tensor | None, example: int) -> Tensor | None:
    return None if marks is None else marks[example]


def _columns(
    fused: Fused,
    sizes: tuple[int, int, int, int],
    key_mask: Tensor | None,
    marks: Tensor | None,
    documents: Tensor | None,
) -> list[Packed]:
    """Return the partials of the listed keys that the stripes do not show already."""
    q_len, kv_len, q_offset, batch = sizes
    listed: list[tuple[int, ListedKeys]] = []
    shared = key_mask is None and marks is None and documents is None
    made: ListedKeys | None = None
    for example in range(batch):
        if not (shared and example):
            keys: list[tuple[Stripe, Tensor]] = []
            for column in fused.columns:
                own = torch.zeros(kv_len, dtype=torch.bool, device="cpu")
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
    overwritten: Tensor,
    padded: Tensor | None,
    key_mask: Tensor | None,
    marks: Tensor | None,
    documents: Tensor | None,
) -> list[Packed]:
    """Return the partial of the rows of global tokens, exactly as the pattern sees them."""
    q_len, kv_len, q_offset, batch = sizes
    listed: list[tuple[int, ListedKeys]] = []
    everything = torch.arange(kv_len, device="cpu")
    whole = torch.zeros(kv_len, dtype=torch.bool, device="cpu")
    whole[list(fused.whole_tokens)] = True
    for example in range(batch):
        own = overwritten[example] if padded is None else overwritten[example] & ~padded[example]
        rows = own.nonzero().flatten()
        real = everything if key_mask is None else key_mask[example].nonzero().flatten()
        sees_all = whole[rows + q_offset]
        if fused.whole_batch and marks is not None:
            sees_all = sees_all | marks[example, rows + q_offset]
        if sees_all.any() and real.numel():
            all_rows = rows[sees_all]
            listed.append(
                (example, ListedKeys(all_rows, real, (all_rows.numel(),), (real.numel(),)))
            )
        some = rows[~sees_all]
        if some.numel() and real.numel():
            context = ExampleContext(kv_len, _of(marks, example), _of(documents, example))
            seen = visible(fused.pattern, (some + q_offset)[:, None], real[None, :], context)
            seen = seen.expand(some.numel(), real.numel())
            counts = tuple(seen.sum(1).tolist())
            keys = real.expand_as(seen)[seen]
            listed.append((example, ListedKeys(some, keys, (1,) * some.numel(), counts)))
    return pack_lists(listed, q_len, kv_len, batch)
