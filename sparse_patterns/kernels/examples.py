"""The information in the masks of a batch, found once for all kernels, layers and passes.

`Examples` reads `key_mask`, `global_mask` and `segment_ids` of one call: which keys are real, which
tokens are global, which document each key is of, and the same at the rows of the queries. Equal
masks of later calls, as those of the next layer and of the backward pass, give the same object, so
that what was found is found again.

Everything is found on the CPU. Masks on a GPU are copied from there once: later calls are known by
the mask being the same tensor, unchanged, and only a tensor not seen before makes the CPU wait.
That holds for tensors that a caller gave to `attention` itself. Those that a compiled program makes
on its way are copied and compared at each call: it may write other masks into the same memory,
which torch does not count as a change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from threading import Lock, local
from typing import Any, TypeVar

import torch
from torch import Tensor

from sparse_patterns.lowering.blocks.table import Blocks, blocks
from sparse_patterns.lowering.plan import Group
from sparse_patterns.spec.oracle import ExampleContext

RECENT = 8
"""Batches remembered; the one not used for longest goes first."""

KEPT = 512
"""Results kept of one batch, oldest first to go: a few for each head pattern of each layer."""

MISSING: Any = object()
UNKNOWN = object()
CPU = torch.device("cpu")

T = TypeVar("T")


class Examples:
    """The information in the masks of a batch.

    Attributes:
        batch: Number of examples.
        q_len: Number of queries.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
        device: Where the masks are.
        key_mask: bool `(batch, kv_len)`, or None where no key is padded.
        global_mask: bool `(batch, kv_len)`, without padded keys, or None.
        segment_ids: int `(batch, kv_len)` as given, or None.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        device: torch.device,
        key_mask: Tensor | None,
        global_mask: Tensor | None,
        segment_ids: Tensor | None,
        here: Examples | None = None,
    ) -> None:
        self.batch, self.q_len, self.kv_len, self.q_offset = shape
        self.device = device
        self._here: Examples | None = self if device.type == "cpu" else here
        full = key_mask is not None and here is None and bool(key_mask.all())
        if full or (here is not None and here.key_mask is None):
            key_mask = None
        self.key_mask: Tensor | None = key_mask
        if global_mask is not None and key_mask is not None:
            global_mask = global_mask & key_mask
        self.global_mask = global_mask
        self.segment_ids = segment_ids
        self._kept: OrderedDict[object, Any] = OrderedDict()

    @cached_property
    def positions(self) -> Tensor:
        """Positions of the query rows, int64 `(q_len,)`."""
        return torch.arange(self.q_len, device=self.device) + self.q_offset

    @cached_property
    def documents(self) -> Tensor | None:
        """Documents of the keys, int64 `(batch, kv_len)`, in each example counted from 0."""
        if self.segment_ids is None:
            return None
        if self.on_cpu() is not self:
            found = self.on_cpu().documents
            return None if found is None else found.to(self.device)
        rows = [torch.unique(row, return_inverse=True)[1] for row in self.segment_ids]
        return torch.stack(rows) if rows else self.segment_ids.long()

    @cached_property
    def padded_rows(self) -> Tensor | None:
        """Which query rows stand at padded positions, bool `(batch, q_len)`; None for none."""
        if self.key_mask is None:
            return None
        return self.at_queries(~self.key_mask, outside=False)

    def context(self, example: int) -> ExampleContext:
        """Return the tensors of one example, as patterns are evaluated with."""

        def make() -> ExampleContext:
            marks = None if self.global_mask is None else self.global_mask[example]
            documents = None if self.documents is None else self.documents[example]
            return ExampleContext(self.kv_len, marks, documents)

        return self.keep(("context", example), make)

    def at_queries(self, values: Tensor, *, outside: bool | int) -> Tensor:
        """Read values of keys at the positions of the queries.

        Args:
            values: `(examples, kv_len)`.
            outside: The value of queries before the first or after the last key.

        Returns:
            `(examples, q_len)`.
        """
        beyond = (self.positions < 0) | (self.positions >= self.kv_len)
        if not self.kv_len:
            return values.new_full((values.shape[0], self.q_len), outside)
        return values[:, self.positions.clamp(0, self.kv_len - 1)].masked_fill(beyond, outside)

    def global_rows(self, group: Group) -> Tensor | None:
        """Return the rows of real global tokens of a group's heads; None where there are none.

        Returns:
            bool `(batch, q_len)`.
        """
        own = group.batch_rows and self.global_mask is not None

        def make() -> Tensor | None:
            if self.on_cpu() is not self:
                found = self.on_cpu().global_rows(group)
                return None if found is None else found.to(self.device)
            fixed = torch.zeros(1, self.kv_len, dtype=torch.bool, device=self.device)
            fixed[:, list(group.row_tokens)] = True
            marks = fixed.expand(self.batch, -1)
            if own:
                assert self.global_mask is not None
                marks = marks | self.global_mask
            if self.key_mask is not None:
                marks = marks & self.key_mask
            rows = self.at_queries(marks, outside=False)
            return rows if bool(rows.any()) else None

        if not group.row_tokens and not own:
            return None
        return self.keep(("global rows", group.row_tokens, own), make)

    def global_row_lists(self, group: Group) -> list[Tensor]:
        """Return the same as a list of row indices for each example, int64."""

        def make() -> list[Tensor]:
            if self.on_cpu() is not self:
                return [rows.to(self.device) for rows in self.on_cpu().global_row_lists(group)]
            rows = self.global_rows(group)
            assert rows is not None
            return [row.nonzero().flatten() for row in rows]

        if self.global_rows(group) is None:
            return []
        own = group.batch_rows and self.global_mask is not None
        return self.keep(("global row lists", group.row_tokens, own), make)

    def blocks(self, group: Group, example: int, block: int) -> Blocks:
        """Return the block form of a group for one example, on the CPU.

        Padded keys and padded queries are left to the kernel.

        Args:
            group: Heads that see the same pairs.
            example: Index of the example.
            block: Queries, and keys, of a block.
        """
        if not group.forms.takes_example_tensors:
            return group.blocks(block)
        here = self.on_cpu()

        def make() -> Blocks:
            shape = (self.q_len, self.kv_len, self.q_offset)
            return blocks(group.pattern, *shape, block, here.context(example))

        return here.keep(("blocks", group.forms, example, block), make)

    def on_cpu(self) -> Examples:
        """Return the same on the CPU, where block tables and partials are made."""
        if self._here is None:
            masks = (self.key_mask, self.global_mask, self.segment_ids)
            shape = (self.batch, self.q_len, self.kv_len, self.q_offset)
            self._here = Examples(shape, CPU, *_copied(masks))
        return self._here

    def keep(self, key: object, make: Callable[[], T]) -> T:
        """Return what was made for a key before, or make it now.

        Args:
            key: Everything that the result depends on besides the masks.
            make: Makes the result.
        """
        found: T | None = self._kept.get(key, MISSING)
        if found is not MISSING:
            return found  # type: ignore[return-value]
        made = make()
        self._kept[key] = made
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return made


Masks = tuple[Tensor | None, Tensor | None, Tensor | None]
Names = tuple[object, ...]
NOTHING: Masks = (None, None, None)


def _copied(masks: Masks) -> Masks:
    key_mask, global_mask, segment_ids = (None if mask is None else mask.cpu() for mask in masks)
    return key_mask, global_mask, segment_ids


class _Seen:
    """The masks of an earlier call, and their `Examples`.

    Args:
        key: What the result depends on besides the masks.
        masks: The masks as they were given.
        kept: Copies on the CPU: a caller may write other values into its masks.
        examples: What was made of them.
    """

    def __init__(
        self, key: tuple[object, ...], masks: Masks, kept: Masks, examples: Examples
    ) -> None:
        self.key, self.kept, self.examples = key, kept, examples
        self._masks: Masks = NOTHING
        self._names: Names = (UNKNOWN,)
        self.meet(masks)

    def meet(self, masks: Masks) -> None:
        """Know these tensors again, if a caller gave them.

        They are held, so that their memory is not another's meanwhile.
        """
        names = _names(masks)
        if names == getattr(_given, "names", _names(NOTHING)):
            self._masks, self._names = masks, names

    def is_of(self, key: tuple[object, ...], masks: Masks) -> bool:
        """Return whether the masks are the same tensors as before, unchanged."""
        names = _names(masks)
        return key == self.key and names == self._names and UNKNOWN not in names

    def equals(self, key: tuple[object, ...], masks: Masks) -> bool:
        """Return whether masks on the CPU have the same values."""
        return key == self.key and all(
            (a is None and b is None)
            or (a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b))
            for a, b in zip(self.kept, masks, strict=True)
        )


def give(key_mask: Tensor | None, global_mask: Tensor | None, segment_ids: Tensor | None) -> None:
    """Say that the masks of the next call on this thread are tensors that a caller holds."""
    _given.masks = (key_mask, global_mask, segment_ids)
    _given.names = _names(_given.masks)


def _names(masks: Masks) -> Names:
    return tuple(map(_name, masks))


def _name(mask: Tensor | None) -> object:
    """Return what tells a tensor on a GPU, and a change of it, from others that exist."""
    if mask is None:
        return None
    if mask.device.type in ("cpu", "meta") or mask.is_inference():
        return UNKNOWN  # values are compared there, or there are none, or changes are not counted
    if type(mask).__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl:
        return UNKNOWN
    try:
        memory = mask.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return UNKNOWN  # stands for another tensor, as those of `torch.vmap` and of tracing do
    if not memory:
        return UNKNOWN
    return memory, mask.storage_offset(), mask.stride(), mask.shape, mask.dtype, mask._version


_recent: list[_Seen] = []
_lock = Lock()
_given = local()


def examples_of(
    shape: tuple[int, int, int, int],
    device: torch.device,
    key_mask: Tensor | None,
    global_mask: Tensor | None,
    segment_ids: Tensor | None,
) -> Examples:
    """Return the information in the masks of a call: the same object for equal masks and shapes.

    Args:
        shape: Examples, queries, keys, and the position of query row 0.
        device: Where the tensors of the call are.
        key_mask: bool `(batch, kv_len)` or None.
        global_mask: bool `(batch, kv_len)` or None.
        segment_ids: int `(batch, kv_len)` or None.
    """
    masks: Masks = (key_mask, global_mask, segment_ids)
    key = (shape, device)
    away = device.type != "cpu"
    if away:
        found = _find(lambda seen: seen.is_of(key, masks))
        if found is not None:
            return found.examples
    values = _copied(masks) if away else masks
    found = _find(lambda seen: seen.equals(key, values))
    if found is not None:
        if away:
            found.meet(masks)
        return found.examples
    kept = values if away else _cloned(values)
    made = here = Examples(shape, CPU, *kept)
    if away:
        own = _cloned(masks)
        made = Examples(shape, device, own[0], own[1], own[2], here)
    with _lock:
        _recent.append(_Seen(key, masks if away else NOTHING, kept, made))
        del _recent[:-RECENT]
    return made


def _cloned(masks: Masks) -> Masks:
    one, two, three = (None if mask is None else mask.detach().clone() for mask in masks)
    return one, two, three


def _find(fits: Callable[[_Seen], bool]) -> _Seen | None:
    """Return the entry that fits, as the one used last."""
    with _lock:
        for index, entry in enumerate(_recent):
            if fits(entry):
                _recent.append(_recent.pop(index))
                return entry
    return None
