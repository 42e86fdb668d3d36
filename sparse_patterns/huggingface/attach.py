"""A sparse pattern for any Hugging Face model that uses `transformers`' attention interface.

    model = AutoModelForCausalLM.from_pretrained(...)
    set_pattern(model, Window.before(1023) | Global((0,), rows=False))

Only pairs are taken away: what the model itself masks (the future, what lies outside of a sliding
layer's window, other packed documents, padding) stays masked. Positions of a pattern count from the
first real token of each text, so that padding changes nothing, and of each document of a packed
row.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from sparse_patterns.config.codec import from_config
from sparse_patterns.huggingface.finding import attentions_of, layers_of, why_not
from sparse_patterns.huggingface.given import Given
from sparse_patterns.huggingface.interface import NAME, PLACE, SAVED, Place, register, remember
from sparse_patterns.huggingface.requests import refuse_weights
from sparse_patterns.huggingface.saving import keep
from sparse_patterns.huggingface.scores import leave_tables
from sparse_patterns.huggingface.static import leave_masks_to_the_model
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.validation import check_pattern

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["NAME", "register", "set_pattern"]

Model = TypeVar("Model", bound=nn.Module)


def set_pattern(model: Model, pattern: Pattern | str | Mapping[str, Any] | None = None) -> Model:
    """Give a model a sparse pattern, in place; its weights stay as they are.

    The pattern is written into the model's configuration, so that `save_pretrained` keeps it and
    `from_pretrained(..., attn_implementation="sparse_patterns")` has it again. Calling this again
    changes the pattern, and `model.set_attn_implementation("sdpa")` goes back to the model's own
    attention.

    A pattern with `BatchGlobal()` or `SameDocument()` takes `global_mask` or `segment_ids`, of
    shape `(batch, length)`, as arguments of the model, or by `batch_masks`.

    Args:
        model: A model of `transformers`, a part that is one, or a model of `peft` around one.
        pattern: A pattern, the name of a registered one, or the config of one. By default that of
            the model's configuration, and of the configurations of its parts; the functions of
            rules in them are imported.

    Returns:
        The model.

    Raises:
        ImportError: `transformers` is not installed or too old.
        TypeError: `model` or `pattern` is something else.
        ValueError: The model has no attention that can be replaced, or one that a pattern cannot
            serve, attends to other sequences or consists of several models; or the pattern does
            not fit its layers and heads, or there is none in the configuration.
    """
    register()
    from transformers import PreTrainedModel

    base = _base_of(model)
    if not isinstance(base, PreTrainedModel):
        raise TypeError(f"model must be a model of transformers, got {type(model).__name__}")
    if pattern is None:
        _set_saved(base)
        return model
    checked = check_pattern(from_config(pattern))
    config, kind = base.config, type(base).__name__
    parts = [
        name
        for name, part in base.named_modules()
        if isinstance(part, PreTrainedModel) and part.config is not config
    ]
    attentions = attentions_of(base, PreTrainedModel)
    why = why_not(base, config, attentions)
    if not base._can_set_attn_implementation():
        why = (
            f"{kind} does not use transformers' attention interface, so that its attention cannot "
            "be replaced"
        )
    elif parts and any(getattr(config, name, None) is not None for name in config.sub_configs):
        why = f"{kind} consists of several models; set the pattern of one: {', '.join(parts)}"
    if why is not None:
        raise ValueError(why)
    _attach(base, checked, attentions)
    return model


def _base_of(model: nn.Module) -> nn.Module:
    """Return the model inside of one of `peft`.

    Raises:
        ValueError: It puts learned tokens before each text, which have no place in a pattern.
    """
    get_base = getattr(model, "get_base_model", None)
    if not callable(get_base):
        return model
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(
            f"{type(model).__name__} puts learned tokens before each text, which would move all "
            "positions of a pattern"
        )
    base = get_base()
    return base if isinstance(base, nn.Module) else model


def _set_saved(model: PreTrainedModel) -> None:
    """Give a model and its parts the patterns of their configurations."""
    from transformers import PreTrainedModel

    found = [
        part
        for part in model.modules()
        if isinstance(part, PreTrainedModel) and getattr(part.config, SAVED, None) is not None
    ]
    if not found:
        raise ValueError(
            f"pattern must be given: the configuration of {type(model).__name__} has no {SAVED}"
        )
    done: set[int] = set()
    for part in found:
        # A model and the one inside of it share their configuration; the outer one comes first.
        if id(part.config) not in done:
            done.add(id(part.config))
            set_pattern(part, getattr(part.config, SAVED))


def _attach(model: PreTrainedModel, pattern: Pattern, attentions: dict[str, nn.Module]) -> None:
    """Tell each attention module its pattern and which layer it is."""
    config, kind = model.config, type(model).__name__
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int):
        layers = len(attentions)
    heads = getattr(config, "num_attention_heads", None)
    if isinstance(heads, int):
        bound = {bind(pattern, heads=heads, layer=layer, layers=layers) for layer in range(layers)}
        places = layers_of(attentions, layers)
        if len(bound) > 1 and None in places:
            raise ValueError(
                f"{kind} does not tell its attention modules which layer they are, and the "
                f"pattern varies by layer: {pattern!r}"
            )
    else:
        places = layers_of(attentions, layers)
    if config.is_encoder_decoder:
        # An encoder shares its configuration with the decoder, which keeps its own attention.
        config = copy.copy(config)
        for module in model.modules():
            if getattr(module, "config", None) is model.config and module is not model:
                module.config = config
        model.config = config
    remember(model, pattern)
    given = Given()
    for layer, module in zip(places, attentions.values(), strict=True):
        setattr(module, PLACE, Place(pattern, layer, layers, given))
        leave_tables(module)
    keep(model, pattern)
    refuse_weights(model)
    leave_masks_to_the_model(model)
    model.set_attn_implementation(NAME)
