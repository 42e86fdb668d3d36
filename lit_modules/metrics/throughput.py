"""How fast a model trains: tokens and model FLOPs per second, and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from functools import lru_cache
from pathlib import Path

import torch

import sparse_patterns as sp

__all__ = ["Speed", "peak_memory", "training_flops"]


def training_flops(
    pattern: sp.Pattern,
    *,
    batch: int,
    length: int,
    layers: int,
    heads: int,
    head_dim: int,
    matmul_weights: int,
    memory_lengths: tuple[int, ...] | None = None,
    memory_weights: int = 0,
) -> int:
    """Return the floating-point operations of one training step that the model calls for.

    What an implementation computes beyond that (masked pairs of a tile, checkpointed layers again)
    does not count.

    Args:
        pattern: The pattern of all layers.
        batch: Sequences.
        length: Tokens of a sequence.
        layers: Number of layers.
        heads: Heads of a layer.
        head_dim: Size of a head.
        matmul_weights: Weights that every token is multiplied by, the output projection included.
        memory_lengths: Tokens of memory before the sequence, one number per layer.
        memory_weights: Weights of a layer that every token of memory is multiplied by.
    """
    memory_lengths = memory_lengths or (0,) * layers
    attention = sum(
        _attention_flops(pattern, length, memory, heads, head_dim, layer, layers)
        for layer, memory in enumerate(memory_lengths)
    )
    # One product of a weight forward, two backward: with the input and with the weight. No gradient
    # goes into the memory.
    projections = 6 * matmul_weights * length + 4 * memory_weights * sum(memory_lengths)
    return batch * (attention + projections)


@lru_cache(maxsize=1024)
def _attention_flops(
    pattern: sp.Pattern,
    length: int,
    memory: int,
    heads: int,
    head_dim: int,
    layer: int,
    layers: int,
) -> int:
    plan = sp.plan(
        pattern,
        length,
        length + memory,
        heads=heads,
        head_dim=head_dim,
        layer=layer,
        layers=layers,
    )
    return plan.flops + plan.backward_flops


class Speed:
    """Rates over the last batches, waiting for data included and validation left out.

    Lightning's `ThroughputMonitor` does not give these figures: it reports nothing before its
    window is full or without a logger, waits for the GPU after every batch, and assumes batches of
    one size, while stages change the size and the FLOPs of a batch (its visible pairs, memory
    included) from one batch to the next.

    Args:
        window: Number of batches.
    """

    def __init__(self, window: int = 50) -> None:
        self._batches: deque[tuple[float, int, int]] = deque(maxlen=window)
        self._mark: float | None = None

    def start(self) -> None:
        """Start the clock, at first and after a pause that does not count."""
        self._mark = time.perf_counter()

    def stop(self, tokens: int, flops: int) -> None:
        """Count a batch that ends now."""
        now = time.perf_counter()
        if self._mark is not None:
            self._batches.append((now - self._mark, tokens, flops))
        self._mark = now

    def rates(self) -> tuple[float, float]:
        """Return tokens per second and FLOPs per second, 0 before the first batch."""
        seconds = sum(batch[0] for batch in self._batches)
        if not seconds:
            return 0.0, 0.0
        tokens = sum(batch[1] for batch in self._batches)
        flops = sum(batch[2] for batch in self._batches)
        return tokens / seconds, flops / seconds


def peak_memory(device: torch.device) -> int:
    """Return the most memory in use so far, in bytes: of the GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # On Linux `ru_maxrss` includes the parent before the fork; `VmHWM` does not.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
