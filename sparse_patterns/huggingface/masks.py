"""The mask of a Hugging Face model, read from its parts instead of from an n x n tensor.

A model describes its mask by a function of (batch, head, query, key), made of a few known parts:
causal, windows, chunks, documents packed in one row. Each is a pattern here. Whatever is not known
is refused, so that nothing that a model masks is ever seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_patterns.huggingface.expressions import (
    Symbol,
    chunk,
    conjuncts,
    difference,
    expression_of,
    place,
    same_document,
    written,
)
from sparse_patterns.spec.atoms import Causal, LocalBlock, Window
from sparse_patterns.spec.base import Full, Pattern
from sparse_patterns.spec.fields import LARGEST

Limit = tuple[str, int]
"""A part of a model's mask: "causal", "window", "both ways" or "chunk", and its size."""

CAUSAL: tuple[Limit, ...] = (("causal", 0),)
"""The limits of a causal mask."""

_UNBOUNDED = LARGEST
"""Keys on a side of a window that has no end there; the sequence ends first."""


class MaskError(ValueError, AttributeError):
    """A model uses its mask as a tensor."""


@dataclass(frozen=True, eq=False)
class ModelMask:
    """The mask of one forward pass; travels through the model in the place of its tensor.

    Attributes:
        limits: The pairs that the model allows, without padding and documents.
        q_len: Number of queries.
        kv_len: Number of keys that are kept, up to the last query.
        q_offset: Position of query row 0.
        kv_offset: Position of key 0; above 0 where a cache has dropped keys that no query sees.
        real: bool `(batch, kv_offset + kv_len)`, True for a real token; None: nothing is padded.
        documents: int `(batch, kv_len)`, the document of each token; None: the model tells none.
        positions: int `(batch, kv_len)`, the positions that the parts of a packed mask count by.
        room: Number of keys behind the last query, which a static cache has room for.
        start: int64 of one element, the position of query row 0 of a compiled program with a static
            cache. Then `q_offset` is 0, and `kv_len` all that the cache has room for.
        refused: Reasons why a compiled program refuses the pass, if their tensors say so when it
            runs.
        kept: What has been found out for all layers of the pass.
    """

    limits: tuple[Limit, ...]
    q_len: int
    kv_len: int
    q_offset: int = 0
    kv_offset: int = 0
    real: Tensor | None = None
    documents: Tensor | None = None
    positions: Tensor | None = None
    room: int = 0
    start: Tensor | None = None
    refused: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        """Refuse what only a tensor has; `hasattr` says no."""
        raise _no_tensor(name)

    def __getitem__(self, index: Any) -> Any:
        """Refuse to be cut."""
        raise _no_tensor("[...]")

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any, **__: Any) -> Any:
        """Refuse to be taken by an operator of torch."""
        raise _no_tensor(getattr(function, "__name__", str(function)))


def _no_tensor(use: str) -> MaskError:
    return MaskError(
        f"the model changes or reads its mask by itself ({use}): masks of a pattern are "
        "descriptions and no tensors; to generate with a static cache, call set_pattern(model)"
    )


def padding_alone(mask: Any, q_len: int, kv_len: int) -> Any:
    """Return a mask of padding, which a model made by itself, as a `ModelMask`.

    Args:
        mask: A mask of any kind; one of another kind is returned as it is.
        q_len: Number of queries.
        kv_len: Number of keys.
    """
    if not isinstance(mask, Tensor) or mask.ndim != 4 or q_len != kv_len:
        return mask
    if mask.is_meta or mask.shape[1:] != (1, 1, kv_len):
        return mask
    if mask.dtype != torch.bool and not mask.is_floating_point():
        return mask
    if torch.compiler.is_compiling():
        return _padding_of(mask, q_len, kv_len)[0]
    known = getattr(mask, "_sparse_pattern_mask", None)
    if known is not None and known[0] == mask._version:
        return known[1]
    found, other = _padding_of(mask, q_len, kv_len)
    if bool(other):
        return mask
    found = replace(found, real=_unless_all(found.real), refused={})
    # All layers of a model get the same tensor; reading it waits for the device.
    mask._sparse_pattern_mask = (mask._version, found)  # type: ignore[attr-defined]
    return found


def _padding_of(mask: Tensor, q_len: int, kv_len: int) -> tuple[ModelMask, Tensor]:
    """Return a mask as if it were one of padding, and whether it is another."""
    if mask.dtype == torch.bool:
        real, other = mask, mask.new_zeros(())
    else:
        real = mask == 0
        other = (~real & ~(mask <= torch.finfo(mask.dtype).min / 2)).any()
    refused = {
        "the model adds numbers to its scores that are no mask of padding; write what it masks as "
        "part of the pattern": other
    }
    return ModelMask((), q_len, kv_len, real=real[:, 0, 0], refused=refused), other


def _unless_all(real: Tensor | None) -> Tensor | None:
    """Return which tokens are real, None if all are."""
    # Of a mask without numbers, on the meta device, only shapes are asked for.
    return None if real is None or real.is_meta or bool(real.all()) else real


def read_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor,
    kv_offset: int | Tensor,
    mask_function: Callable[..., Any],
    attention_mask: Tensor | None = None,
    **unused: Any,
) -> ModelMask:
    """Return what a model asks for, called by `transformers` as the maker of its masks.

    Args:
        batch_size: Number of examples.
        q_length: Number of queries.
        kv_length: Number of keys.
        q_offset: Position of query row 0.
        kv_offset: Position of key 0.
        mask_function: Which pairs the model allows.
        attention_mask: bool `(batch, kv_offset + kv_length)`, True for a real token.
        **unused: What other makers of masks need: types, devices, permissions to take shortcuts.

    Raises:
        ValueError: A part of the mask is not known, or the keys do not end where the queries do
            and the mask is not causal: attention to another sequence.
    """
    tracing = torch.compiler.is_compiling()
    parts = _read(mask_function)
    limits = parts.limits
    start = None
    if isinstance(kv_offset, Tensor):
        kv_offset = _as_int(kv_offset)
    if isinstance(q_offset, Tensor) and not tracing:
        q_offset = _as_int(q_offset)
    if isinstance(q_offset, Tensor):
        # The cache counts on in the same tensor.
        start, q_offset, q_end = q_offset.clone(), 0, kv_offset + kv_length
    else:
        q_end = q_offset + q_length
    room = kv_offset + kv_length - q_end
    causal = any(kind == "causal" for kind, _ in limits)
    if room < 0 or ((room > 0 or start is not None) and not causal):
        raise ValueError(
            f"queries end at position {q_end} and keys at {kv_offset + kv_length}: a prefix and "
            "attention to another sequence are not served, only self-attention, with or without a "
            "cache"
        )
    real = attention_mask
    if real is not None:
        if (
            real.ndim != 2
            or real.shape[0] != batch_size
            or (start is None and real.shape[1] < q_end)
        ):
            raise ValueError(
                f"attention_mask must have shape (batch, tokens so far) = ({batch_size}, {q_end}), "
                f"got {tuple(real.shape)}"
            )
        real = real[:, :q_end].bool()
        if start is not None:
            real = F.pad(real, (0, q_end - real.shape[1]))
        if not tracing:
            real = _unless_all(real)
    refused = {}
    if parts.chunk_starts is not None:
        moved = parts.chunk_starts.any()
        reason = (
            "chunks of a batch with padding on the left start at other places in each "
            "example, which is not served; pad on the right"
        )
        if tracing:
            refused[reason] = moved
        elif bool(moved):
            raise ValueError(reason)
    if parts.positions is not None and parts.documents is None:
        raise ValueError("the parts of a mask count by position_ids, but there are no documents")
    return ModelMask(
        tuple(limits),
        q_length,
        kv_length - room,
        q_offset,
        kv_offset,
        real,
        parts.documents,
        parts.positions,
        room,
        start,
        refused,
    )


def _as_int(x: Tensor) -> int:
    # On the meta device, only shapes are asked for.
    return 0 if x.is_meta else int(x)


@dataclass
class _Parts:
    """What a mask is the intersection of.

    Attributes:
        limits: Pairs by their places.
        documents: int `(batch, length)`, the document of each token.
        positions: int `(batch, length)`, what places are counted by.
        chunk_starts: int `(batch,)`, where the first chunk starts.
    """

    limits: list[Limit]
    documents: Tensor | None = None
    positions: Tensor | None = None
    chunk_starts: Tensor | None = None


def _read(function: Callable[..., Any]) -> _Parts:
    """Return the parts of a mask.

    Raises:
        ValueError: One is not known.
    """
    try:
        expression = expression_of(function)
    except (TypeError, AttributeError) as error:
        name = getattr(function, "__qualname__", repr(function))
        raise _no_pattern(f"{name} ({error})") from error
    found = _Parts([])
    for part in conjuncts(expression):
        documents = same_document(part)
        if documents is not None:
            found.documents = documents
        else:
            _add_limit(part, found)
    return found


def _no_pattern(part: str) -> ValueError:
    return ValueError(
        f"the model's mask has a part that is no pattern: {part}; only causal masks, windows, "
        "chunks, packed documents and padding are served"
    )


def _add_limit(part: Symbol, found: _Parts) -> None:
    """Note the pairs that one part of a mask allows, and what it counts places by."""
    limit: Limit | None = None
    by_query: Tensor | None = None
    by_key: Tensor | None = None
    a, b = part.parts if len(part.parts) == 2 else (None, None)
    match part.kind:
        case ">=" if place(a, "query")[0] and isinstance(b, int) and b == 0:
            return
        case "<=" if place(a, "key")[0] and place(b, "query")[0]:
            limit, by_key, by_query = CAUSAL[0], place(a, "key")[1], place(b, "query")[1]
        case ">" if place(a, "key")[0]:
            less = difference(b, "query")
            if less is not None and isinstance(less[1], int):
                limit, by_key, by_query = ("window", less[1]), place(a, "key")[1], less[0]
        case "<=" if isinstance(a, Symbol) and a.kind == "abs" and isinstance(b, int):
            less = difference(a.parts[0], "query")
            if less is not None and place(less[1], "key")[0]:
                limit, by_key, by_query = ("both ways", b), place(less[1], "key")[1], less[0]
        case "==":
            key, query = chunk(a, "key"), chunk(b, "query")
            if key is not None and query is not None and key[0] == query[0] and key[1] is query[1]:
                limit, by_key, by_query = ("chunk", key[0]), key[2], query[2]
                found.chunk_starts = key[1]
    if limit is None or by_key is not by_query:
        raise _no_pattern(written(part))
    if limit[0] == "window" and limit[1] < 1:
        raise ValueError(f"sliding_window of the model is {limit[1]}: no query would see any key")
    found.limits.append(limit)
    if by_key is not None:
        found.positions = by_key


def pattern_of(limits: tuple[Limit, ...]) -> Pattern:
    """Return the pairs that are within all limits."""
    pattern: Pattern = Full()
    for kind, size in limits:
        match kind:
            case "causal":
                pattern &= Causal()
            case "window":
                pattern &= Window(size - 1, _UNBOUNDED)
            case "both ways":
                pattern &= Window(size, size)
            case _:
                pattern &= LocalBlock(size)
    return pattern
