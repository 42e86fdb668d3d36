"""A sparse pattern for any Hugging Face model that uses `transformers`' attention interface.

    model = AutoModelForCausalLM.from_pretrained(...)
    set_pattern(model, Window.before(1023) | Global((0,), rows=False))

Only pairs are taken away: what the model itself masks (the future, what lies outside of a sliding
layer's window, other packed documents, padding) stays masked. Positions of a pattern count from the
first real token of each text, so that padding changes nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparse_patterns.config.codec import from_config
from sparse_patterns.huggingface.masks import ModelMask, read_mask
from sparse_patterns.huggingface.packing import documents_in
from sparse_patterns.huggingface.positions import attend_texts
from sparse_patterns.huggingface.requests import PACKING, check_request
from sparse_patterns.spec.atoms import Causal
from sparse_patterns.spec.base import Full, Pattern
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.validation import check_pattern

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "sparse_patterns"
"""What the attention is called in `attn_implementation`."""

_PLACE = "_sparse_pattern"


@dataclass(frozen=True)
class _Place:
    """What an attention module needs to know: its pattern, and which layer of how many it is."""

    pattern: Pattern
    layer: int | None
    layers: int


def register() -> None:
    """Make `attn_implementation="sparse_patterns"` known to `transformers`.

    `set_pattern` does it by itself; call this before `from_pretrained` to name the attention there.

    Raises:
        ImportError: `transformers` is not installed, or too old to describe its masks.
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ImportError as error:
        raise ImportError(
            "patterns for Hugging Face models need transformers 5 or newer: "
            f"pip install 'sparse-patterns[hf]' ({error})"
        ) from error
    if "q_offset" not in inspect.signature(sdpa_mask).parameters:
        from transformers import __version__

        raise ImportError(f"transformers {__version__} is too old: pip install -U transformers")
    # A compiled model runs these as they are: they look at the values of masks.
    AttentionInterface.register(NAME, torch.compiler.disable(_attend))
    AttentionMaskInterface.register(NAME, torch.compiler.disable(read_mask))


def set_pattern(
    model: PreTrainedModel, pattern: Pattern | str | Mapping[str, Any]
) -> PreTrainedModel:
    """Give a model a sparse pattern, in place; its weights stay as they are.

    A pattern is not saved with the model. Calling it again changes the pattern, and
    `model.set_attn_implementation("sdpa")` goes back to the model's own attention.

    A pattern with `BatchGlobal()` or `SameDocument()` takes `global_mask` or `segment_ids`, of
    shape `(batch, length)`, as arguments of the model.

    Args:
        model: A model of `transformers`, or a part that is one.
        pattern: A pattern, the name of a registered one, or the config of one.

    Returns:
        The model.

    Raises:
        ImportError: `transformers` is not installed or too old.
        TypeError: `model` or `pattern` is something else.
        ValueError: The model does not use the attention interface, attends to other sequences or
            consists of several models, or the pattern does not fit its layers and heads.
    """
    register()
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model must be a model of transformers, got {type(model).__name__}")
    checked = check_pattern(from_config(pattern))
    config, kind = model.config, type(model).__name__
    if config.is_encoder_decoder or getattr(config, "add_cross_attention", False):
        raise ValueError(
            f"{kind} attends from one sequence to another, for which a pattern has no meaning"
        )
    if any(getattr(config, name, None) is not None for name in config.sub_configs):
        parts = [
            name
            for name, part in model.named_modules()
            if isinstance(part, PreTrainedModel) and part.config is not config
        ]
        raise ValueError(
            f"{kind} consists of several models; set the pattern of one: {', '.join(parts)}"
        )
    if not model._can_set_attn_implementation():
        raise ValueError(
            f"{kind} does not use transformers' attention interface, so that its attention cannot "
            "be replaced"
        )
    layers, heads = config.num_hidden_layers, getattr(config, "num_attention_heads", None)
    if isinstance(heads, int):
        for layer in range(layers):
            bind(checked, heads=heads, layer=layer, layers=layers)
    for module in model.modules():
        if hasattr(module, "config"):
            place = _Place(checked, getattr(module, "layer_idx", None), layers)
            setattr(module, _PLACE, place)
    model.set_attn_implementation(NAME)
    return model


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    global_mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    """Attend as `transformers` asks its attention functions to.

    Returns:
        `(batch, q_len, heads, head_dim)`, and None in the place of the weights.

    Raises:
        ValueError: The module has no pattern, or asks for what cannot be done.
    """
    kind = type(module).__name__
    place = getattr(module, _PLACE, None)
    if place is None:
        raise ValueError(
            f"{kind} has no pattern: call sparse_patterns.huggingface.set_pattern(model, pattern)"
        )
    if attention_mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        mask = ModelMask(Causal() if causal else Full(), query.shape[2], key.shape[2])
        if sliding_window is not None:
            raise ValueError(f"{kind} asks for sliding_window={sliding_window} without a mask")
    else:
        mask = attention_mask
    if not isinstance(mask, ModelMask):
        raise ValueError(
            f"{kind} got a mask that the model or the caller made, of shape "
            f"{tuple(getattr(mask, 'shape', ()))}: only padding can be masked, by an "
            "attention_mask of shape (batch, length); write the rest as part of the pattern"
        )
    check_request(module, mask, query, key, value, asked)
    layer, layers = _layer(kind, place, query.shape[1])
    query, key, value = _autocast(query, key, value)
    pattern = place.pattern & mask.limits
    documents = documents_in(
        mask, query.shape[0], **{name: asked.get(name) for name in PACKING}
    )
    out = attend_texts(
        query,
        key,
        value,
        pattern,
        mask,
        layer=layer,
        layers=layers,
        global_mask=global_mask,
        segment_ids=segment_ids,
        documents=documents,
        scale=scaling,
        dropout_p=dropout,
    )
    return out.transpose(1, 2).contiguous(), None


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast, take what torch's own attention takes: rotary positions leave other types."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device) or tensors[0].dtype == torch.float64:
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)


def _layer(kind: str, place: _Place, heads: int) -> tuple[int, int]:
    """Return which layer of how many a module is; any one, where all have the same pattern."""
    if place.layer is not None:
        return place.layer, place.layers
    bound = {
        bind(place.pattern, heads=heads, layer=layer, layers=place.layers)
        for layer in range(place.layers)
    }
    if len(bound) > 1:
        raise ValueError(
            f"{kind} does not know which layer it is, and the pattern varies by layer: "
            f"{place.pattern!r}"
        )
    return 0, place.layers
