"""Where the texts of a batch lie, and the parts that a batch is split into for that.

A text is what is between the first and the last real token of a row, or of a document where a row
holds several. Reading where texts lie waits for the device that the masks are on, so it is done
once for all layers and passes of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

RECENT = 8
"""Batches remembered; the one not used for longest goes first."""


class Part(NamedTuple):
    """Texts of a batch that one call of attention computes.

    Attributes:
        rows: int64 `(texts, 1)`, the example that each is part of.
        queries: int64 `(texts, queries)`, where its queries lie in `q`.
        keys: int64 `(texts, keys)`, where its keys lie in `k`.
        asked: bool `(texts, queries)`, False behind the end of a text; None: all are queries of it.
        real: bool `(texts, keys)`, False for what is no real token of the text; None: all are.
        q_offset: Position of the first query in the text.
        first: Example and place in `q` of the first query of all.
    """

    rows: Tensor
    queries: Tensor
    keys: Tensor
    asked: Tensor | None
    real: Tensor | None
    q_offset: int
    first: tuple[int, int]

    def take(self, x: Tensor, places: Tensor) -> Tensor:
        """Take the texts from `(batch, heads, length, size)` or `(batch, heads, length)`."""
        return x.transpose(1, 2)[self.rows, places].transpose(1, 2)

    def take_tokens(self, x: Tensor | None) -> Tensor | None:
        """Take the texts from `(batch, keys)`."""
        return None if x is None else x[self.rows, self.keys]

    def take_examples(self, x: Tensor | None) -> Tensor | None:
        """Take what each example has, `(batch, ...)`, for each text."""
        if x is None or not x.stride(0):  # which is the same in all examples
            return None if x is None else x[:1].expand(self.rows.shape[0], *x.shape[1:])
        return x[self.rows[:, 0]]

    def put(self, into: Tensor, x: Tensor, places: Tensor, inside: Tensor | None) -> None:
        """Write texts into `(batch, heads, length, ...)` where they were taken from.

        Args:
            into: Is written to.
            x: `(texts, heads, places, ...)`.
            places: int64 `(texts, places)`.
            inside: bool `(texts, places)`, what to write; None: everything.
        """
        rows, tokens = self.rows.expand_as(places), x.transpose(1, 2)
        if inside is None:
            into.transpose(1, 2)[rows, places] = tokens
        else:
            into.transpose(1, 2)[rows[inside], places[inside]] = tokens[inside]


class Layout:
    """Where the texts of a batch lie.

    Attributes:
        several: Whether a row holds several documents.
        padded: Whether a token is not real.
    """

    def __init__(
        self, documents: Tensor | None, real: Tensor | None, batch: int, device: torch.device
    ) -> None:
        self._documents, self._real = documents, real
        self._batch, self._device = batch, device
        self.several = documents is not None and bool((documents[:, 1:] != documents[:, :-1]).any())
        self.padded = real is not None and not bool(real.all())
        self._parts: dict[object, tuple[Part, ...]] = {}
        self._pieces: list[tuple[int, int, int]] | None = None

    def pieces(self) -> list[tuple[int, int, int]]:
        """Return `(example, start, stop)` of each document; see `pieces_of`."""
        if self._pieces is None:
            assert self._documents is not None
            self._pieces = pieces_of(self._documents, self._real if self.padded else None)
        return self._pieces

    def documents(self, *, exact: bool) -> tuple[Part, ...]:
        """Return the parts of a batch whose rows hold several documents.

        Args:
            exact: Whether only documents of one length may be taken together.

        Raises:
            ValueError: A document is not in one piece.
        """
        return self._keep(("documents", exact), lambda: self._find_documents(exact))

    def texts(
        self, q_len: int, kv_len: int, q_offset: int, kv_offset: int, *, exact: bool
    ) -> tuple[Part, ...]:
        """Return the parts of a batch with one text a row.

        Args:
            q_len: Queries.
            kv_len: Keys.
            q_offset: Position of query row 0.
            kv_offset: Position of key 0.
            exact: Whether keys behind the end of a text must be left out, and not only hidden.
        """
        where = (q_len, kv_len, q_offset, kv_offset, exact)
        return self._keep(("texts", *where), lambda: self._find_texts(*where))

    def _keep(self, key: object, make: Callable[[], tuple[Part, ...]]) -> tuple[Part, ...]:
        if key not in self._parts:
            self._parts[key] = make()
        return self._parts[key]

    def _find_documents(self, exact: bool) -> tuple[Part, ...]:
        assert self._documents is not None
        length, parts = self._documents.shape[1], []
        for long, group in _grouped(self.pieces(), length, exact=exact).items():
            rows, start, stop = torch.tensor(group, device=self._device).T[:, :, None]
            places = start + torch.arange(long, device=self._device)
            ragged = any(b - a < long for _, a, b in group)
            inside = places < stop if ragged else None
            places = torch.minimum(places, stop - 1)
            real = inside
            if self.padded:
                assert self._real is not None
                real = self._real[rows, places]
                real = real if inside is None else real & inside
            parts.append(Part(rows, places, places, inside, real, 0, group[0][:2]))
        return tuple(parts)

    def _find_texts(
        self, q_len: int, kv_len: int, q_offset: int, kv_offset: int, exact: bool
    ) -> tuple[Part, ...]:
        device, end = self._device, kv_offset + kv_len
        groups: dict[tuple[int, int], list[int]] = {}
        for example, (start, stop) in enumerate(self._ends(end)):
            groups.setdefault((start, stop if exact else end), []).append(example)
        parts = []
        for (start, stop), examples in groups.items():
            first = min(max(0, start - q_offset), q_len)
            last = min(max(first, stop - q_offset), q_len)
            if first == last:
                continue
            rows = torch.tensor(examples, device=device)[:, None]
            positions = torch.arange(start, stop, device=device).expand(len(examples), -1)
            queries = torch.arange(first, last, device=device).expand(len(examples), -1)
            # Keys that a cache has dropped stand for others, as invisible ones, to keep the places.
            keys, real = (positions - kv_offset).clamp(min=0), None
            if self.padded:
                assert self._real is not None
                real = self._real[rows, positions]
            if start < kv_offset:
                kept = positions >= kv_offset
                real = kept if real is None else real & kept
            offset = q_offset + first - start
            parts.append(Part(rows, queries, keys, None, real, offset, (examples[0], first)))
        return tuple(parts)

    def _ends(self, end: int) -> list[tuple[int, int]]:
        """Return where the text of each example starts and stops."""
        if not self.padded:
            return [(0, end)] * self._batch
        assert self._real is not None
        length = self._real.shape[1]
        places = torch.arange(length, device=self._device).expand_as(self._real)
        starts = places.masked_fill(~self._real, length).amin(1)
        stops = (places + 1).masked_fill(~self._real, 0).amax(1)
        return [(min(a, b), b) for a, b in torch.stack([starts, stops], 1).tolist()]


_recent: list[tuple[tuple[Tensor | None, ...], Layout]] = []
_lock = Lock()


def layout_of(
    documents: Tensor | None, real: Tensor | None, batch: int, device: torch.device
) -> Layout:
    """Return where the texts of a batch lie: the same object for equal masks.

    Args:
        documents: int `(batch, length)`, the number of each token's document, or None.
        real: bool `(batch, length)`, False for padding, or None.
        batch: Number of examples.
        device: Where the masks are.
    """
    masks = (documents, real)
    with _lock:
        for index, (seen, layout) in enumerate(_recent):
            same_batch = layout._batch == batch and layout._device == device
            if same_batch and all(map(_is_equal, seen, masks)):
                _recent.append(_recent.pop(index))
                return layout
    # Copies: a caller may write other values into its masks.
    documents, real = (None if mask is None else mask.detach().clone() for mask in masks)
    made = Layout(documents, real, batch, device)
    with _lock:
        _recent.append(((documents, real), made))
        del _recent[:-RECENT]
    return made


def _is_equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and torch.equal(a, b)


def pieces_of(documents: Tensor, real: Tensor | None = None) -> list[tuple[int, int, int]]:
    """Return `(example, start, stop)` of each document, without padding at its ends.

    Args:
        documents: int `(batch, length)`, the number of each token's document.
        real: bool `(batch, length)`, False for padding.

    Raises:
        ValueError: A document is not in one piece.
    """
    length = documents.shape[1]
    if length == 0:
        return []
    change = documents[:, 1:] != documents[:, :-1]
    found = []
    kept = None if real is None else real.tolist()
    for example, (row, ids) in enumerate(zip(change.tolist(), documents.tolist(), strict=True)):
        cuts = [0, *(place + 1 for place, new in enumerate(row) if new), length]
        names = set()
        for start, stop in pairwise(cuts):
            if kept is not None:
                while start < stop and not kept[example][start]:
                    start += 1
                while start < stop and not kept[example][stop - 1]:
                    stop -= 1
            if start == stop:
                continue
            if ids[start] in names:
                raise ValueError(
                    f"documents must be in one piece where a pattern depends on positions, but "
                    f"document {ids[start]} of example {example} goes on at position {start} "
                    "after another one"
                )
            names.add(ids[start])
            found.append((example, start, stop))
    return found


def _grouped(
    pieces: list[tuple[int, int, int]], length: int, *, exact: bool
) -> dict[int, list[tuple[int, int, int]]]:
    """Return the documents by the length they are brought to.

    Unless exact lengths are needed these are powers of two: few calls, and few shapes to plan.
    """
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for piece in pieces:
        size = piece[2] - piece[1]
        long = size if exact else min(length, 1 << (size - 1).bit_length())
        groups.setdefault(long, []).append(piece)
    return groups
