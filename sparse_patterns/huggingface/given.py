"""Masks of a batch for models that do not hand them down to their attention, and for generation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_patterns.huggingface.masks import ModelMask
from sparse_patterns.spec.validation import check_example_type

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Given:
    """Masks that hold for all attention of a model while `batch_masks` is active.

    Copies and files of a model do not take them along.
    """

    def __init__(self) -> None:
        self.masks: dict[str, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of one without masks."""
        return {"masks": {}}

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def fill(self, name: str, mask: Tensor | None, place: ModelMask) -> Tensor | None:
        """Return a mask for the keys of a call, `(batch, kv_len)`.

        Args:
            name: `global_mask` or `segment_ids`.
            mask: What arrived with the call, if anything did.
            place: Where the keys lie.

        Raises:
            ValueError: It came both ways, or has more or fewer tokens than there are.
        """
        kept = self.masks.get(name)
        if kept is None:
            if mask is None or mask.ndim != 2:
                return mask
            if place.start is not None:
                # The cache has room behind the last token, where nothing is seen.
                room = place.kv_offset + place.kv_len - mask.shape[1]
                return F.pad(mask, (0, room))[:, place.kv_offset :]
            return mask[:, place.kv_offset :] if place.q_offset else mask
        if mask is not None:
            raise ValueError(f"{name} was given to the model and by batch_masks: give it once")
        end = place.kv_offset + place.kv_len
        if kept.shape[1] > end:
            raise ValueError(
                f"{name} of batch_masks must have at most as many tokens as there are, {end}, "
                f"got shape {tuple(kept.shape)}"
            )
        later = end - kept.shape[1]
        if name == "global_mask":
            kept = F.pad(kept, (0, later))
        else:
            kept = torch.cat([kept, kept[:, -1:].expand(-1, later)], 1)
        return kept[:, place.kv_offset :]


@contextmanager
def batch_masks(
    model: PreTrainedModel | nn.Module,
    *,
    global_mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
) -> Iterator[None]:
    """Within, a model's attention has these masks, as if they were arguments of each call.

        with batch_masks(model, global_mask=marks):
            model.generate(ids, max_new_tokens=20)

    For models that do not pass unknown arguments on to their attention (StableLM, SigLIP, Hubert,
    ...), and for `generate`. Tokens after the last one of a mask, which generation adds, are not
    global, and belong to the document of the last one. With beams or several answers to a prompt
    repeat the rows as `generate` does: `marks.repeat_interleave(num_beams, 0)`. With checkpointing
    of activations, `backward` must be within too.

    Args:
        model: A model that `set_pattern` was called on, or that one is a part of.
        global_mask: bool `(batch, length)`, for a pattern with `BatchGlobal()`.
        segment_ids: int `(batch, length)`, for a pattern with `SameDocument()`.

    Raises:
        TypeError: A mask has the wrong type.
        ValueError: A mask has the wrong shape, none is given, or the model has no pattern.
    """
    masks = {"global_mask": global_mask, "segment_ids": segment_ids}
    used = {name: mask for name, mask in masks.items() if mask is not None}
    if not used:
        raise ValueError("batch_masks needs global_mask or segment_ids, got neither")
    for name, mask in used.items():
        check_example_type(name, mask)
        if mask.ndim != 2 or not mask.shape[1]:
            raise ValueError(f"{name} must have shape (batch, length), got {tuple(mask.shape)}")
    places = [getattr(module, "_sparse_pattern", None) for module in model.modules()]
    kept = {id(place.given): place.given for place in places if place is not None}
    if not kept:
        raise ValueError(
            f"{type(model).__name__} has no pattern: call set_pattern(model, pattern) first"
        )
    before = [(given, given.masks) for given in kept.values()]
    for given in kept.values():
        given.masks = used
    try:
        yield
    finally:
        for given, masks_before in before:
            given.masks = masks_before
