"""The positions of one pass, in the form that the attention of each layer takes.

They are those of the own stretch where a sequence is cut among processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_modules.nn.decoder.attention import Positions
from lit_modules.nn.decoder.embeddings import LearnedPositions, rotary_tables
from lit_modules.nn.decoder.relative import Relative, RelativeBiases, waves
from sparse_patterns.distributed.context.split import current_split
from sparse_patterns.nn.documents import positions_in

__all__ = ["learned", "relative_of_layers", "rotary_of_layers"]


def rotary_of_layers(
    held: Sequence[int], start: int, ids: Tensor, head_dim: int, dtype: torch.dtype
) -> list[Positions]:
    """Return the rotations of memory and segment, the same for all layers.

    Args:
        held: Tokens of memory of each layer.
        start: Position of the first token of the longest memory.
        ids: `(batch, length)`, the segment.
        head_dim: Size of a head.
        dtype: Type of the model.
    """
    return [rotary_tables(_places(held, start, ids), head_dim, dtype)] * len(held)


def relative_of_layers(
    held: Sequence[int],
    start: int,
    ids: Tensor,
    biases: RelativeBiases,
    width: int,
    reaches: Sequence[int | None],
    dtype: torch.dtype,
    *,
    cached: bool,
) -> list[Positions]:
    """Return the features of Transformer-XL's positions for each layer.

    Args:
        held: As in `rotary_of_layers`.
        start: As in `rotary_of_layers`.
        ids: As in `rotary_of_layers`.
        biases: `u` and `v`.
        width: Features of a token.
        reaches: How many earlier tokens each layer sees; None for all.
        dtype: Type of the model.
        cached: Whether keys are kept in a cache for tokens to come, which see them from further.
    """
    places = _places(held, start, ids)
    made: dict[int, Relative] = {}
    found: list[Positions] = []
    for reach, past in zip(reaches, held, strict=True):
        # `width` stands for any distance beyond it.
        furthest = width if cached else max(past + ids.shape[1] - 1, 0)
        furthest = furthest if reach is None else min(reach, furthest)
        if furthest not in made:
            made[furthest] = Relative(waves(places, width, furthest, dtype), biases.u, biases.v)
        found.append(made[furthest])
    return found


def learned(
    positions: LearnedPositions, ids: Tensor, start: int, documents: Tensor | None
) -> Tensor:
    """Return the vectors of the tokens, counted from the start of each document."""
    split = current_split()
    if documents is None or not ids.shape[1]:
        whole: Tensor = positions(start, ids.shape[1])
        return whole if split is None else split.cut(whole, 0)
    places = positions_in(documents)
    vectors: Tensor = positions(start, int(places.max()) + 1)
    return vectors[places if split is None else split.cut(places)]


def _places(held: Sequence[int], start: int, ids: Tensor) -> Tensor:
    split = current_split()
    if split is not None:
        return torch.arange(*split.bounds(ids.shape[1]), device=ids.device)
    return torch.arange(start, start + max(held) + ids.shape[1], device=ids.device)
