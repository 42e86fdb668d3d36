"""The attention that `transformers` calls by its name, and the pattern of each module."""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparse_patterns.config.codec import from_config
from sparse_patterns.config.handles import as_constant
from sparse_patterns.huggingface.given import Given
from sparse_patterns.huggingface.masks import CAUSAL, ModelMask, padding_alone, read_mask
from sparse_patterns.huggingface.packing import documents_in
from sparse_patterns.huggingface.positions import attend_texts
from sparse_patterns.huggingface.requests import PACKING, check_request
from sparse_patterns.huggingface.scores import take_scores
from sparse_patterns.spec.atoms import BatchGlobal, SameDocument
from sparse_patterns.spec.base import Pattern, uses
from sparse_patterns.spec.binding import bind

NAME = "sparse_patterns"
"""What the attention is called in `attn_implementation`."""

PLACE = "_sparse_pattern"
"""The attribute of an attention module that holds its `Place`."""

SAVED = "sparse_pattern"
"""The field of a model's configuration that holds its pattern as plain data."""


_PATTERNED: dict[int, tuple[weakref.ref[Any], weakref.ref[nn.Module]]] = {}
"""The configurations that have a pattern, and the model of each, by the object's identity."""

_SHARED = (
    "{kind} shares its configuration object with a model that was given {other}: make each model "
    "of a copy of its own, copy.deepcopy(config)"
)


@dataclass(frozen=True)
class Place:
    """What an attention module needs to know.

    Attributes:
        pattern: The pattern of the model.
        layer: Which layer the module is; None if it does not matter.
        layers: Number of layers of the model.
        given: Masks for all modules of the model, from `batch_masks`.
    """

    pattern: Pattern
    layer: int | None
    layers: int
    given: Given

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the attention known in the process that reads a whole model from a file."""
        self.__dict__.update(state)
        register()


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
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, read_mask)


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
    place = _place_of(module)
    if attention_mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        mask = ModelMask(CAUSAL if causal else (), query.shape[2], key.shape[2])
        if sliding_window is not None:
            raise ValueError(f"{kind} asks for sliding_window={sliding_window} without a mask")
    else:
        mask = padding_alone(attention_mask, query.shape[2], key.shape[2])
    if not isinstance(mask, ModelMask):
        raise ValueError(
            f"{kind} got a mask that the model or the caller made, of shape "
            f"{tuple(getattr(mask, 'shape', ()))}: only padding can be masked, by an "
            "attention_mask of shape (batch, length); write the rest as part of the pattern"
        )
    scores = take_scores(module, asked)
    check_request(module, mask, query, key, value, asked)
    layer, layers = _layer(kind, place, query.shape[1])
    if query.is_meta:
        # Only shapes are asked for; nothing can be read off a mask.
        return query.new_empty(query.transpose(1, 2).shape), None
    global_mask = place.given.fill("global_mask", global_mask, mask)
    segment_ids = place.given.fill("segment_ids", segment_ids, mask)
    query, key, value = _autocast(query, key, value)
    if mask.room:
        # What a static cache has room for behind the last query.
        key, value = key[:, :, : mask.kv_len], value[:, :, : mask.kv_len]
    documents = documents_in(mask, query.shape[0], **{name: asked.get(name) for name in PACKING})
    _check_masks(kind, place.pattern, global_mask, segment_ids, documents, mask)
    out = attend_texts(
        query,
        key,
        value,
        place.pattern,
        mask,
        layer=layer,
        layers=layers,
        global_mask=global_mask,
        segment_ids=segment_ids,
        documents=documents,
        scale=scaling,
        dropout_p=dropout,
        scores=scores,
    )
    return out.transpose(1, 2).contiguous(), None


def _place_of(module: nn.Module) -> Place:
    """Return what a module knows of its pattern, from the model's configuration if need be."""
    if getattr(module, PLACE, None) is None:
        _make_place(module)
    place = getattr(module, PLACE)
    assert isinstance(place, Place)
    return place


def remember(model: nn.Module, pattern: Pattern) -> None:
    """Remember the configuration of a model that is given a pattern.

    Modules of that model know their places, so one that does not is of another model, made of the
    same object.

    Raises:
        ValueError: Another model with the same configuration object has another pattern, and would
            be saved with this one.
    """
    key = id(model.config)
    found = _PATTERNED.get(key)
    owner = found[1]() if found is not None else None
    if owner is not None and owner not in set(model.modules()) and model not in owner.modules():
        places = [getattr(module, PLACE, None) for module in owner.modules()]
        if any(place is not None and place.pattern != pattern for place in places):
            raise ValueError(_SHARED.format(kind=type(model).__name__, other="another pattern"))
    forget = weakref.ref(model.config, lambda _: _PATTERNED.pop(key, None))
    _PATTERNED[key] = forget, weakref.ref(model)


@as_constant
def _make_place(module: nn.Module) -> None:
    """Give a module the pattern of the model's configuration, without importing anything."""
    kind, config = type(module).__name__, cast(Any, module.config)
    saved = getattr(config, SAVED, None)
    if saved is None or config.is_encoder_decoder:
        raise ValueError(
            f"{kind} has no pattern: call sparse_patterns.huggingface.set_pattern(model, pattern)"
        )
    if id(config) in _PATTERNED:
        raise ValueError(
            _SHARED.format(kind=kind, other="a pattern")
            + "; or call sparse_patterns.huggingface.set_pattern(model) for the same pattern"
        )
    try:
        pattern = from_config(saved, import_rules=False)
    except ValueError as error:
        raise ValueError(
            f"{kind} cannot take the {SAVED} of its configuration by itself: {error}; call "
            "sparse_patterns.huggingface.set_pattern(model), which imports the functions of rules"
        ) from error
    layer, layers = getattr(module, "layer_idx", None), getattr(config, "num_hidden_layers", 1)
    setattr(module, PLACE, Place(pattern, layer, layers, Given()))


def _check_masks(
    kind: str,
    pattern: Pattern,
    global_mask: Tensor | None,
    segment_ids: Tensor | None,
    documents: Tensor | None,
    mask: ModelMask,
) -> None:
    """Refuse a call without what its pattern reads, which a model may have lost on the way.

    Raises:
        ValueError: The pattern has `BatchGlobal()` or `SameDocument()`, and its mask is missing.
    """
    for name, given, reader in (
        ("global_mask", global_mask, BatchGlobal),
        ("segment_ids", documents if segment_ids is None else segment_ids, SameDocument),
    ):
        reason = (
            f"{kind} got no {name}, which the pattern needs for {reader.__name__}(): give "
            f"{name}=... of shape (batch, length) to the model; for a model that does not pass "
            f"it on, and for generate, write `with batch_masks(model, {name}=...):` around the "
            "call (sparse_patterns.huggingface.batch_masks)"
        )
        if not uses(pattern, reader):
            continue
        if given is None:
            raise ValueError(reason)
        if given is documents and torch.compiler.is_compiling():
            # What a compiled model makes of position_ids may be one document after all.
            mask.refused[reason] = (given[:, 1:] == given[:, :-1]).all()


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast, take what torch's own attention takes: rotary positions leave other types."""
    device = tensors[0].device.type
    if (
        not torch.amp.is_autocast_available(device)
        or not torch.is_autocast_enabled(device)
        or tensors[0].dtype == torch.float64
    ):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)


def _layer(kind: str, place: Place, heads: int) -> tuple[int, int]:
    """Return which layer of how many a module is; any one, where all have the same pattern."""
    if place.layer is not None:
        return place.layer, place.layers
    if not _is_same_in_all(place.pattern, heads, place.layers):
        raise ValueError(
            f"{kind} does not know which layer it is, and the pattern varies by layer: "
            f"{place.pattern!r}"
        )
    return 0, place.layers


@as_constant
def _is_same_in_all(pattern: Pattern, heads: int, layers: int) -> bool:
    """Return whether all layers have the same pattern."""
    bound = {bind(pattern, heads=heads, layer=layer, layers=layers) for layer in range(layers)}
    return len(bound) == 1
