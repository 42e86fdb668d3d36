"""A sparse pattern for the self-attention of torch's own modules, weights kept.

encoder = sparsify(nn.TransformerEncoder(layer, 6), Window(256, 256) | Global((0,)))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sparse_patterns.config.codec import from_config
from sparse_patterns.nn.multihead import SparseMultiheadAttention
from sparse_patterns.spec.atoms import BatchGlobal, SameDocument
from sparse_patterns.spec.base import Pattern, uses
from sparse_patterns.spec.fields import boolean
from sparse_patterns.spec.validation import check_pattern


def sparsify(
    module: nn.Module,
    pattern: Pattern | str | Mapping[str, Any],
    *,
    ignore_need_weights: bool = False,
) -> nn.Module:
    """Give the self-attention of torch's own modules a sparse pattern, weights kept.

    Replaces, in place, every `nn.MultiheadAttention` in `module`, also those of
    `nn.TransformerEncoder` and `nn.TransformerEncoderLayer`; the attention of an
    `nn.TransformerDecoderLayer` to its encoder stays. Parameters stay the same objects under the
    same names, so that optimizers, checkpoints and `load_state_dict` go on as before. Calling it
    again changes the pattern.

    The layers of a pattern are those attentions, in the order of `module.modules()`.

    Args:
        module: Any module.
        pattern: A pattern, the name of a registered one, or the config of one.
        ignore_need_weights: Whether a caller that asks for attention weights gets None instead of
            an error.

    Returns:
        `module`, or what replaces it if it is an `nn.MultiheadAttention` itself.

    Raises:
        TypeError: `module` or `pattern` is something else.
        ValueError: There is no self-attention; or one that cannot have a pattern, of which the
            message gives the reason; or the pattern needs masks that these modules do not pass on.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be an nn.Module, got {type(module).__name__}")
    boolean("ignore_need_weights", ignore_need_weights)
    checked = check_pattern(from_config(pattern))
    if uses(checked, BatchGlobal, SameDocument):
        raise ValueError(
            "a pattern with BatchGlobal() or SameDocument() takes tensors of the batch, which "
            f"torch's modules do not pass on: {checked!r}; write Global(tokens), or use "
            "SparseSelfAttention"
        )
    found = _self_attentions(module)
    if not found:
        raise ValueError(f"{type(module).__name__} holds no nn.MultiheadAttention to replace")
    made: dict[nn.Module | None, nn.Module] = {}
    for layer, (attended, name) in enumerate(found.items()):
        if type(attended) not in (nn.MultiheadAttention, SparseMultiheadAttention):
            raise ValueError(
                f"{name or 'module'} is no plain nn.MultiheadAttention but a "
                f"{type(attended).__qualname__}, whose own code would be lost"
            )
        try:
            made[attended] = SparseMultiheadAttention(
                attended,
                checked,
                layer=layer,
                layers=len(found),
                ignore_need_weights=ignore_need_weights,
            )
        except ValueError as error:
            raise ValueError(f"{name or 'module'}: {error}") from error
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child in made:
                setattr(parent, name, made[child])
        if isinstance(parent, nn.TransformerEncoder):
            # It would hand down nested tensors, to be used without calling the attention.
            parent.use_nested_tensor = False
    return made.get(module, module)


def _self_attentions(
    module: nn.Module,
) -> dict[nn.MultiheadAttention | SparseMultiheadAttention, str]:
    """Return the attentions to replace with their names, in order."""
    to_the_encoder = {
        id(part.multihead_attn)
        for part in module.modules()
        if isinstance(part, nn.TransformerDecoderLayer)
    }
    return {
        part: name
        for name, part in module.named_modules()
        if isinstance(part, nn.MultiheadAttention | SparseMultiheadAttention)
        and id(part) not in to_the_encoder
    }
