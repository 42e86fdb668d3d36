"""The attention modules of a model, and why a model cannot have a pattern, as far as it is known.

What depends on the arguments of a call is refused there; see `requests`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

from torch import nn

# Models whose attention is chosen or masked by their own code, so that a pattern would be lost.
_BY_MODEL = {
    "pixtral": "its images lie in one row, with a mask of pairs",
    "inkling_text": "it adds a bias to its scores that depends on the queries",
    "doge": "its attention makes a mask of its own from the values",
    "hy_v4": "its attention chooses blocks of keys by itself",
}
_CROSS = re.compile(r"cross|encoder_attn|enc_dec|encdec", re.IGNORECASE)


@lru_cache(maxsize=1024)
def _calls_interface(kind: Hashable) -> bool:
    """Return whether the code of a class asks `transformers` for the attention function."""
    assert isinstance(kind, type)
    for base in kind.__mro__:
        for member in vars(base).values():
            code = getattr(inspect.unwrap(member), "__code__", None) if callable(member) else None
            if code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names:
                return True
    return False


def attentions_of(model: nn.Module, models: type) -> dict[str, nn.Module]:
    """Return the modules whose attention can be replaced, by name and in order.

    Args:
        model: The model.
        models: The class of models, which name the attention but do not compute it.
    """
    found = {}
    for name, module in model.named_modules():
        kind: object = type(module)
        if not isinstance(module, models) and _calls_interface(kind):
            found[name] = module
    return found


def layers_of(attentions: dict[str, nn.Module], layers: int) -> list[int | None]:
    """Return which layer each module is; None where that is not known.

    Modules that do not know their number are counted if each layer has one.
    """
    known = [getattr(module, "layer_idx", None) for module in attentions.values()]
    if all(layer is None for layer in known) and len(known) == layers:
        return list(range(layers))
    return [layer if isinstance(layer, int) else None for layer in known]


def why_not(model: nn.Module, config: Any, attentions: dict[str, nn.Module]) -> str | None:
    """Return why a model cannot have a pattern; None if nothing is known against it.

    Args:
        model: The model.
        config: Its configuration.
        attentions: From `attentions_of`.
    """
    kind = type(model).__name__
    cross = [name for name, module in attentions.items() if _is_cross(name, module)]
    alone = "Encoder" in kind and "Decoder" not in kind and not cross
    both = getattr(config, "is_encoder_decoder", False) and not alone
    if both or getattr(config, "add_cross_attention", False) or cross:
        return f"{kind} attends from one sequence to another, for which a pattern has no meaning"
    if not attentions:
        return (
            f"{kind} has no attention that can be replaced: none of its modules calls "
            "transformers' attention interface"
        )
    if config.model_type in _BY_MODEL:
        return f"{kind} cannot have a pattern: {_BY_MODEL[config.model_type]}"
    for name, module in model.named_modules():
        if "RelativePositionBias" in type(module).__name__:
            return f"{kind} adds a bias to its scores by places in an image ({name})"
    for name, module in attentions.items():
        if getattr(module, "indexer", None) is not None:
            return f"{name} chooses keys by itself, so that a pattern would be lost"
        if getattr(module, "position_embeddings_type", None) == "relative":
            return f"{name} adds a bias to its scores that depends on the queries"
        sizes = getattr(module, "qk_head_dim", None), getattr(module, "v_head_dim", None)
        if None not in sizes and sizes[0] != sizes[1]:
            return (
                f"{name} has values of size {sizes[1]}, which must be that of its keys, {sizes[0]}"
            )
    return None


def _is_cross(name: str, module: nn.Module) -> bool:
    """Return whether a module attends to another sequence."""
    own = ".".join(name.split(".")[-2:])
    return bool(
        getattr(module, "is_cross_attention", False)
        or _CROSS.search(own)
        or _CROSS.search(type(module).__name__)
    )
