"""Segment memory: keys and values of the previous segment, for each row of a batch.

After Transformer-XL (Dai et al. 2019, section 3.2). A stream is cut into segments, and row `b` of
consecutive batches holds consecutive segments. The keys and values of a segment serve the next one,
without gradient. With a window, that makes a pass over the segments equal to one long pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_modules.nn.decoder.attention import KeysValues

__all__ = ["SegmentMemory"]


class SegmentMemory:
    """Holds the memory of one stream per row between two batches.

    Example:
        >>> given = memory.recall(batch["continues"])
        >>> out = net(ids, keep=net.memory_lengths(), **given)
        >>> memory.store(out.memory, ids.shape[1])
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Clear the memory."""
        self._layers: tuple[KeysValues, ...] | None = None
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
            self._layers = tuple(
                (_fit(keys, len(rows)), _fit(values, len(rows))) for keys, values in self._layers
            )
        longest = max(keys.shape[2] for keys, _ in self._layers)
        if min(self._seen) >= longest:
            # No mask where none is needed: most kernels are faster without.
            return {"memory": self._layers}
        device = self._layers[0][0].device
        age = torch.arange(longest, 0, -1, device=device)
        seen = torch.tensor(self._seen, device=device)
        return {"memory": self._layers, "memory_mask": age <= seen[:, None]}

    def store(self, layers: Sequence[KeysValues] | None, length: int) -> None:
        """Keep what the decoder returned for a segment of `length` tokens."""
        assert layers is not None, "the decoder was called with keep"
        self._layers = tuple(layers)
        if not self._seen:
            self._seen = [0] * layers[0][0].shape[0]
        # A count beyond the longest memory of a layer is not needed.
        longest = max(keys.shape[2] for keys, _ in layers)
        self._seen = [min(seen + length, longest) for seen in self._seen]

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as tensors and plain numbers, for a checkpoint."""
        layers = self._layers or ()
        return {"layers": [list(pair) for pair in layers], "seen": list(self._seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory of a checkpoint."""
        self._layers = tuple((keys, values) for keys, values in state["layers"]) or None
        self._seen = list(state["seen"])

    def to(self, device: torch.device) -> None:
        """Move the memory to the device of the model."""
        if self._layers is not None:
            self._layers = tuple((k.to(device), v.to(device)) for k, v in self._layers)


def _fit(tensor: Tensor, rows: int) -> Tensor:
    held = tensor[:rows]
    missing = rows - held.shape[0]
    return torch.cat((held, held.new_zeros(missing, *held.shape[1:]))) if missing else held
