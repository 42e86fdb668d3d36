"""Names in checkpoints: prefixes, old spellings, and what belongs to the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lit_modules.pretrained.files import WeightsError

__all__ = ["Sorted", "sort"]

# Every encoder has this table, so that the text before it is the prefix.
_ANCHOR = "embeddings.word_embeddings.weight"
_PARTS = ("embeddings.", "encoder.", "pooler.")
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
_OLD_SPELLINGS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class Sorted:
    """The tensors of a checkpoint by what they are for.

    Attributes:
        encoder: Those of the encoder, by its own names.
        heads: All others, by the names in the checkpoint.
        buffers: Names of constants that are computed here.
        prefix: The text before the encoder's names.
        renamed: Number of old spellings.
    """

    encoder: dict[str, Tensor]
    heads: dict[str, Tensor]
    buffers: tuple[str, ...]
    prefix: str
    renamed: int


def sort(state: Mapping[str, Tensor], source: str) -> Sorted:
    """Find the encoder in a state dict, under any prefix.

    Args:
        state: Tensors by name.
        source: Where from, for errors.

    Raises:
        WeightsError: There is no encoder of this layout, or more than one.
    """
    prefixes = sorted(key[: -len(_ANCHOR)] for key in state if key.endswith(_ANCHOR))
    if not prefixes:
        shown = ", ".join(sorted(state)[:3])
        raise WeightsError(
            f"nothing in {source} matches: no name ends with {_ANCHOR}; "
            f"it has {len(state)} names such as {shown}"
        )
    if len(prefixes) > 1:
        raise WeightsError(
            f"{source} holds {len(prefixes)} encoders, with the prefixes "
            f"{', '.join(map(repr, prefixes))}; give the state dict of one"
        )
    prefix = prefixes[0]
    encoder: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    buffers = []
    renamed = 0
    for key, tensor in state.items():
        name = key[len(prefix) :]
        if not key.startswith(prefix) or not name.startswith(_PARTS):
            heads[key] = tensor
        elif name in _BUFFERS:
            buffers.append(key)
        else:
            new = _spelled(name)
            renamed += new != name
            if new in encoder:
                raise WeightsError(f"{source} has {new} in an old and a new spelling")
            encoder[new] = tensor
    return Sorted(encoder, heads, tuple(buffers), prefix, renamed)


def _spelled(name: str) -> str:
    for old, new in _OLD_SPELLINGS.items():
        if name.endswith(old):
            return name[: -len(old)] + new
    return name
