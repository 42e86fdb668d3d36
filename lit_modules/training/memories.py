"""The segment memories of a training run: one for each part of the data, saved with checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_modules.nn.decoder.decoder import Decoder
from lit_modules.nn.decoder.memory import LayerMemory, SegmentMemory
from lit_modules.training.distributed import gather, world_size

__all__ = ["Memories"]


class Memories:
    """Separate segment memories of training, validation and test.

    Training may be interrupted between two optimizer steps; the batches since the last step are
    then taken again by the run that resumes it. What is saved is therefore the memory at the last
    step.

    Args:
        memory: Tokens of memory in training; 0 for none.
        eval_memory: Tokens of memory in validation and test; None takes `memory`.
        keys: Whether validation and test keep keys and values, instead of hidden states.

    Raises:
        ValueError: A number is negative or no int, or there is no memory that could keep keys.
    """

    def __init__(
        self, memory: int = 0, eval_memory: int | None = None, *, keys: bool = False
    ) -> None:
        memory = _tokens("memory", memory)
        eval_memory = memory if eval_memory is None else _tokens("eval_memory", eval_memory)
        if keys and not eval_memory:
            raise ValueError(
                "memory_keys is for a memory in validation and test, got memory_keys=True with "
                f"eval_memory {eval_memory}; set memory or eval_memory"
            )
        self._tokens = {"train": memory, "val": eval_memory, "test": eval_memory}
        self._keys = keys
        self._parts = {part: SegmentMemory() for part in self._tokens}
        self._noted: tuple[int, dict[str, Any]] | None = None
        self._lost = False

    @property
    def longest(self) -> int:
        """Tokens of the longest memory of a part."""
        return max(self._tokens.values())

    def tokens(self, part: str) -> int:
        """Return the tokens of memory of a part."""
        return self._tokens[part]

    def recall(self, part: str, batch: dict[str, Tensor], net: Decoder) -> dict[str, Any]:
        """Return the decoder's arguments that continue the streams of a batch.

        Args:
            part: train, val or test.
            batch: The batch.
            net: The decoder.

        Raises:
            ValueError: A batch of training does not say what it continues, or continues what is not
                there.
        """
        tokens = self._tokens[part]
        if not tokens:
            return {}
        if part == "train" and "continues" not in batch:
            raise ValueError(
                f"memory {tokens} needs batches with `continues`, which say whether a row "
                f"continues the one before, got {sorted(batch)}; use a data set of streams "
                "(data.stream=True) or memory=0"
            )
        continues = batch.get("continues")
        if part == "train" and self._lost:
            self._lost = False
            continues = None
        given = self._parts[part].recall(continues)
        if self._keys and part != "train":
            return {**given, "keep_keys": net.memory_lengths(tokens)}
        return {**given, "keep": tokens}

    def store(
        self, part: str, layers: tuple[LayerMemory, ...] | None, batch: dict[str, Tensor]
    ) -> None:
        """Keep what the decoder returned for a batch."""
        if self._tokens[part]:
            length = batch["input_ids"].shape[1]
            self._parts[part].store(layers, length, batch.get("restarts"))

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
        """Restore the memory of this process.

        The rows of all processes are divided anew where their number has changed. Without a memory
        of hidden states (a run without memory, or of an earlier version, which kept keys and
        values) every stream begins anew, with a warning.
        """
        if not state or any(len(layer) != 1 for process in state for layer in process["layers"]):
            held = "a memory of keys and values" if state else "no memory"
            rank_zero_warn(
                f"the checkpoint holds {held}, not the hidden states that this run remembers: its "
                "streams go on without what was before"
            )
            self._lost = True
            return
        mine = state[rank] if len(state) == world_size() else _share(state, rank)
        self._parts["train"].load_state_dict(mine)


def _tokens(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be an int >= 0, in tokens, got {value!r}")
    return value


def _share(state: list[dict[str, Any]], rank: int) -> dict[str, Any]:
    """Return the rows of one process, of those of another number of processes, in their order."""
    seen = [count for process in state for count in process["seen"]]
    each = -(-len(seen) // world_size())
    mine = slice(rank * each, (rank + 1) * each)
    layers = zip(*(process["layers"] for process in state), strict=True)
    joined = [[torch.cat([layer[0] for layer in one])[mine].clone()] for one in layers]
    return {"layers": joined, "seen": seen[mine]}
