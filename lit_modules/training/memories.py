"""The segment memories of a training run: one for each part of the data, saved with checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_modules.nn.decoder.memory import SegmentMemory
from lit_modules.training.distributed import gather, world_size

__all__ = ["Memories"]


class Memories:
    """Separate segment memories of training, validation and test.

    Training may be interrupted between two optimizer steps; the batches since the last step are
    then taken again by the run that resumes it. What is saved is therefore the memory at the last
    step.
    """

    def __init__(self) -> None:
        self._parts = {part: SegmentMemory() for part in ("train", "val", "test")}
        self._noted: tuple[int, dict[str, Any]] | None = None

    def recall(self, part: str, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Return the decoder's arguments that continue the streams of a batch.

        Raises:
            ValueError: A batch of training does not say what it continues.
        """
        if part == "train" and "continues" not in batch:
            raise ValueError(
                "memory=True needs batches with `continues`, which say whether a row continues "
                f"the one before, got {sorted(batch)}; use a data set of streams or memory=False"
            )
        return self._parts[part].recall(batch.get("continues"))

    def store(self, part: str, layers: Any, length: int) -> None:
        """Keep what the decoder returned for a segment of `length` tokens."""
        self._parts[part].store(layers, length)

    def reset(self, part: str) -> None:
        """Clear the memory of a part."""
        self._parts[part].reset()

    def to(self, device: torch.device) -> None:
        """Move a loaded memory to the device of the model."""
        self._parts["train"].to(device)

    def note(self, step: int) -> None:
        """Record the memory after optimizer step `step`; call it before each batch."""
        if self._noted is None or self._noted[0] != step:
            self._noted = step, self._parts["train"].state_dict()

    def state_dict(self, step: int) -> list[dict[str, Any]]:
        """Return the training memory of every process at optimizer step `step`."""
        noted = self._noted
        if noted is not None and noted[0] == step:
            return gather(noted[1])
        return gather(self._parts["train"].state_dict())

    def load_state_dict(self, state: list[dict[str, Any]], rank: int) -> None:
        """Restore the memory of this process; ignored if the number of processes has changed."""
        if len(state) == world_size():
            self._parts["train"].load_state_dict(state[rank])
