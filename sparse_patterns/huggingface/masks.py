"""The mask of a Hugging Face model, read from its parts instead of from an n x n tensor.

A model describes its mask by a function of (batch, head, query, key), made of a few known parts:
causal, windows, chunks, documents packed in one row. Each is a pattern here. Whatever is not known
is refused, so that nothing that a model masks is ever seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparse_patterns.spec.atoms import Causal, LocalBlock, Window
from sparse_patterns.spec.base import Full, Pattern
from sparse_patterns.spec.fields import LARGEST

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
        kv_len: Number of keys that are kept.
        q_offset: Position of query row 0.
        kv_offset: Position of key 0; above 0 where a cache has dropped keys that no query sees.
        real: bool `(batch, kv_offset + kv_len)`, True for a real token; None: nothing is padded.
        documents: int `(batch, kv_len)`, the document of each token; None: the model tells none.
        positions: int `(batch, kv_len)`, the positions that the parts of a packed mask count by.
        kept: What has been found out for all layers of the pass.
    """

    limits: Pattern
    q_len: int
    kv_len: int
    q_offset: int = 0
    kv_offset: int = 0
    real: Tensor | None = None
    documents: Tensor | None = None
    positions: Tensor | None = None
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
        f"the model changes or reads its mask by itself ({use}), or generates with a static cache: "
        "a pattern serves neither, since its masks are descriptions and no tensors; use the "
        "dynamic cache (the default)"
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
    known = getattr(mask, "_sparse_pattern_mask", None)
    if known is not None and known[0] == mask._version:
        return known[1]
    real = mask
    if mask.dtype != torch.bool:
        if not mask.is_floating_point():
            return mask
        real = mask == 0
        if bool((mask[~real] > torch.finfo(mask.dtype).min / 2).any()):
            return mask
    real = real[:, 0, 0]
    found = ModelMask(Full(), q_len, kv_len, real=None if bool(real.all()) else real)
    # All layers of a model get the same tensor; reading it waits for the device.
    mask._sparse_pattern_mask = (mask._version, found)  # type: ignore[attr-defined]
    return found


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
        ValueError: A part of the mask is not known, or the keys do not end where the queries do:
            a static cache, or attention to another sequence.
    """
    if isinstance(q_offset, Tensor) or isinstance(kv_offset, Tensor):
        raise ValueError(
            "a static cache is not served: its keys are padded to the greatest length; use the "
            "dynamic cache (the default)"
        )
    end = kv_offset + kv_length
    if q_offset + q_length != end:
        raise ValueError(
            f"queries end at position {q_offset + q_length} and keys at {end}: a static cache, a "
            "prefix and attention to another sequence are not served, only self-attention with "
            "or without a dynamic cache"
        )
    real = attention_mask
    if real is not None:
        if real.ndim != 2 or real.shape[0] != batch_size or real.shape[1] < end:
            raise ValueError(
                f"attention_mask must have shape (batch, tokens so far) = ({batch_size}, {end}), "
                f"got {tuple(real.shape)}"
            )
        real = real[:, :end].bool()
        # Of a mask without numbers, on the meta device, only shapes are asked for.
        real = None if real.is_meta or bool(real.all()) else real
    parts = _parts(mask_function)
    limits: Pattern = Full()
    for part, given in parts:
        limits &= _limit(part, given)
    documents = positions = None
    for part, given in parts:
        if part == "packed_sequence_mask_function":
            documents = given["packed_sequence_mask"]
        elif part == "remap_positions_for_packed_sequence":
            positions = given["position_ids"]
    if positions is not None and documents is None:
        raise ValueError("the parts of a mask count by position_ids, but there are no documents")
    return ModelMask(limits, q_length, kv_length, q_offset, kv_offset, real, documents, positions)


def _parts(function: Callable[..., Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the names of the parts that a mask is the intersection of, and what each is given."""
    if getattr(function, "__module__", "") != "transformers.masking_utils":
        return [(getattr(function, "__qualname__", repr(function)), {})]
    name = function.__qualname__.split(".")[0]
    cells = function.__closure__ or ()
    names = function.__code__.co_freevars
    given = dict(zip(names, (cell.cell_contents for cell in cells), strict=True))
    if name == "and_masks":
        return [part for one in given["mask_functions"] for part in _parts(one)]
    if name == "remap_positions_for_packed_sequence":
        # Positions start over with each document, as those of a pattern do.
        return [*_parts(given["mask_function"]), (name, given)]
    return [(name, given)]


def _limit(part: str, given: dict[str, Any]) -> Pattern:
    """Return the pairs that one part of a mask allows."""
    match part:
        case "causal_mask_function":
            return Causal()
        case (
            "bidirectional_mask_function"
            | "packed_sequence_mask_function"
            | "remap_positions_for_packed_sequence"
        ):
            return Full()
        case "sliding_window_overlay":
            if given["sliding_window"] < 1:
                raise ValueError(
                    f"sliding_window of the model is {given['sliding_window']}: no query would "
                    "see any key"
                )
            return Window(given["sliding_window"] - 1, _UNBOUNDED)
        case "sliding_window_bidirectional_overlay":
            return Window(given["sliding_window"], given["sliding_window"])
        case "chunked_overlay":
            if bool(given["left_padding"].any()):
                raise ValueError(
                    "chunks of a batch with padding on the left start at other places in each "
                    "example, which is not served; pad on the right"
                )
            return LocalBlock(given["chunk_size"])
    raise ValueError(
        f"the model's mask has a part that is no pattern: {part}; only causal masks, windows, "
        "chunks, packed documents and padding are served"
    )
