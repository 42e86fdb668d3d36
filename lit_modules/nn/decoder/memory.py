"""Segment memory: what each layer keeps of earlier tokens, for each row of a batch.

After Transformer-XL (Dai et al. 2019, section 3.2). A stream is cut into segments, and row `b` of
consecutive batches holds consecutive segments. What came into a layer for the last tokens, its
hidden states, serves the next segment without gradient: they are projected to keys and values with
the weights of that time.

Keys and values may be kept instead. They take twice the room and save the projection, and at fixed
weights the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_modules.nn.decoder.attention import KeysValues

__all__ = ["LayerMemory", "SegmentMemory", "last_tokens", "seen_of", "tokens_of"]

LayerMemory = Tensor | KeysValues
"""Hidden states `(batch, tokens, width)` of one layer, or its keys and values."""


def tokens_of(memory: LayerMemory) -> int:
    """Return how many tokens a layer's memory holds."""
    return (memory if isinstance(memory, Tensor) else memory[0]).shape[-2]


def last_tokens(tensor: Tensor, tokens: int) -> Tensor:
    """Return the last tokens of `(..., tokens, features)`, without gradient and in own storage."""
    start = max(0, tensor.shape[-2] - tokens)
    return tensor[..., start:, :].detach().clone(memory_format=torch.contiguous_format)


def seen_of(
    memory: Sequence[LayerMemory], reaches: Sequence[int | None]
) -> list[LayerMemory | None]:
    """Return the part of each layer's memory that its pattern shows to some token.

    Args:
        memory: What the layers hold.
        reaches: How many earlier tokens each layer sees; None for all.

    Returns:
        One for each layer; None where nothing is seen.
    """
    found: list[LayerMemory | None] = []
    for held, reach in zip(memory, reaches, strict=True):
        tokens = tokens_of(held)
        start = 0 if reach is None else max(0, tokens - reach)
        if start == tokens:
            found.append(None)
        elif isinstance(held, Tensor):
            found.append(held[:, start:])
        else:
            found.append((held[0][:, :, start:], held[1][:, :, start:]))
    return found


class SegmentMemory:
    """Holds the memory of one stream per row between two batches.

    Example:
        >>> given = memory.recall(batch["continues"])
        >>> out = net(ids, keep=512, **given)
        >>> memory.store(out.memory, ids.shape[1])
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Clear the memory."""
        self._layers: tuple[LayerMemory, ...] | None = None
        self._seen: list[int] = []

    def recall(self, continues: Tensor | None) -> dict[str, Any]:
        """Return what the decoder takes to continue the streams.

        Args:
            continues: bool `(batch,)`, False where a row starts a new stream; None: all of them do.

        Returns:
            Arguments of `Decoder.forward`; none where no row continues.

        Raises:
            ValueError: A row continues a stream of which there is no segment before.
        """
        rows = [] if continues is None else continues.tolist()
        if not any(rows):
            self.reset()
            self._seen = [0] * len(rows)
            return {}
        if self._layers is None or max(i for i, row in enumerate(rows) if row) >= len(self._seen):
            raise ValueError(
                f"continues is {rows}, but the segment before had {len(self._seen)} rows; the "
                "first batch of a stream needs False"
            )
        held = len(self._seen)
        self._seen = [
            self._seen[row] if row < held and kept else 0 for row, kept in enumerate(rows)
        ]
        if len(rows) != held:
            # The last batch of a data set may have fewer rows; missing ones are masked.
            self._layers = _each(self._layers, lambda tensor: _fit(tensor, len(rows)))
        longest = max(map(tokens_of, self._layers))
        if min(self._seen) >= longest:
            # No mask where none is needed: most kernels are faster without.
            return {"memory": self._layers}
        first = self._layers[0]
        device = (first if isinstance(first, Tensor) else first[0]).device
        age = torch.arange(longest, 0, -1, device=device)
        seen = torch.tensor(self._seen, device=device)
        return {"memory": self._layers, "memory_mask": age <= seen[:, None]}

    def store(
        self,
        layers: Sequence[LayerMemory] | None,
        length: int,
        restarts: Tensor | None = None,
    ) -> None:
        """Keep what the decoder returned for a segment.

        Args:
            layers: `DecoderOutput.memory`.
            length: Tokens of the segment.
            restarts: bool `(batch, length)`, as the decoder was given; what was before the last one
                of a row is not seen by the next segment.
        """
        assert layers is not None, "the decoder was called with keep or keep_keys"
        self._layers = tuple(layers)
        if not self._seen:
            first = layers[0]
            self._seen = [0] * (first if isinstance(first, Tensor) else first[0]).shape[0]
        # A count beyond the longest memory of a layer is not needed.
        longest = max(map(tokens_of, layers))
        self._seen = [min(seen + length, longest) for seen in self._seen]
        if restarts is not None:
            places = torch.arange(length, 0, -1, device=restarts.device)
            since = places.masked_fill(~restarts, length + longest).amin(1).tolist()
            self._seen = [min(pair) for pair in zip(self._seen, since, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as tensors and plain numbers, for a checkpoint."""
        layers = self._layers or ()
        return {"layers": [list(_tensors(layer)) for layer in layers], "seen": list(self._seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory of a checkpoint."""
        layers = tuple(
            (layer[0], layer[1]) if len(layer) == 2 else layer[0] for layer in state["layers"]
        )
        self._layers = layers or None
        self._seen = list(state["seen"])

    def to(self, device: torch.device) -> None:
        """Move the memory to the device of the model."""
        if self._layers is not None:
            self._layers = _each(self._layers, lambda tensor: tensor.to(device))


def _tensors(layer: LayerMemory) -> tuple[Tensor, ...]:
    return (layer,) if isinstance(layer, Tensor) else layer


def _each(
    layers: Sequence[LayerMemory], change: Callable[[Tensor], Tensor]
) -> tuple[LayerMemory, ...]:
    return tuple(
        change(one) if isinstance(one, Tensor) else (change(one[0]), change(one[1]))
        for one in layers
    )


def _fit(tensor: Tensor, rows: int) -> Tensor:
    held = tensor[:rows]
    missing = rows - held.shape[0]
    return torch.cat((held, held.new_zeros(missing, *held.shape[1:]))) if missing else held
