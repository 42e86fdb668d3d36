"""Generation with a static cache, for which `generate` makes the masks in place of the model."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from sparse_patterns.huggingface.interface import NAME

_MAKE = "create_masks_for_generate"


def leave_masks_to_the_model(model: nn.Module) -> None:
    """Have `generate` hand over the padding mask as it is: the model makes the rest by itself.

    Masks of a pattern are descriptions, which a model does not take for finished masks.
    """
    for module in model.modules():
        if hasattr(module, "prepare_inputs_for_generation"):
            module.__dict__[_MAKE] = partial(_padding_alone, getattr(type(module), _MAKE, None))


def _padding_alone(own: Any, *, config: Any, attention_mask: Tensor | None, **given: Any) -> Any:
    """Return the padding mask, or what the model would make with another attention."""
    if config.get_text_config()._attn_implementation == NAME:
        return attention_mask
    if own is None:
        from transformers.masking_utils import create_masks_for_generate

        own = create_masks_for_generate
    return own(config=config, attention_mask=attention_mask, **given)
