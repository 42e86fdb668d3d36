"""Where a check runs: the GPU, or in tests a pretend device, and how large everything is there."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.contenders import Contender
from benchmarks.cuda import contenders
from benchmarks.cuda.shapes import CudaShape
from benchmarks.timing import Effort

LIBRARIES = ("triton", "xformers", "mslk", "flash_attn", "omegaconf", "jsonargparse", "lightning")
"""Libraries that a part or a kernel uses, none of which has to be there."""


@dataclass(frozen=True)
class Sizes:
    """How large the pieces are.

    Attributes:
        product: Rows of the square product that gives the ceiling of operations.
        copied: Bytes of the copy that gives the ceiling of memory.
        window_length: Tokens of the one window that each kernel is held to.
        model_length: Tokens of the compiled model.
        model_width: Its width.
        speed_length: Tokens of what is timed.
        head_dim: Size of a head there.
        plan_length: Tokens of what is planned.
        effort: How long to time each call.
    """

    product: int = 8192
    copied: int = 1 << 31
    window_length: int = 1300
    model_length: int = 1024
    model_width: int = 256
    speed_length: int = 32768
    head_dim: int = 128
    plan_length: int = 131072
    effort: Effort = field(default_factory=lambda: Effort(rounds=9, budget_s=1.5))


def cuda_kernels() -> tuple[str, ...]:
    """The kernels of a GPU, those that need no compiler first."""
    return ("xformers_fused", "flex", "xformers_blocks")


@dataclass
class Place:
    """The device, and what stands on it.

    Attributes:
        device: Name of the device.
        kernels: The kernels to check.
        sizes: How large everything is.
        backend: Backend of `torch.compile` for the model.
        dense: Attention over all pairs, which the ideal is a share of.
        rivals: What kernels are timed beside.
        found: Seconds by name and direction, for ratios.
        deadline: When the part that runs is to end, by `time.monotonic`.
    """

    device: str = "cuda"
    kernels: tuple[str, ...] = field(default_factory=cuda_kernels)
    sizes: Sizes = field(default_factory=Sizes)
    backend: str = "inductor"
    dense: Callable[[CudaShape], Contender] = contenders.dense
    rivals: Mapping[str, Callable[[CudaShape], Contender]] = field(
        default_factory=lambda: dict(contenders.BASELINES)
    )
    found: dict[str, float] = field(default_factory=dict)
    deadline: float = float("inf")

    @property
    def late(self) -> bool:
        """Whether the time of the part is over."""
        return time.monotonic() > self.deadline

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device == "cuda"

    def finish(self) -> None:
        """Wait until the device has done everything."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def finished(self, call: Callable[[], object]) -> Callable[[], object]:
        """Return the call until the device is done with it."""

        def run() -> object:
            result = call()
            self.finish()
            return result

        return run

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """Most memory that a call holds beside what was there before; None where nobody counts."""
        if not self.on_gpu:
            return None
        self.finish()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        self.finish()
        return torch.cuda.max_memory_allocated() - before

    def half_types(self, kernel: str) -> list[torch.dtype]:
        """The types that a kernel has on a GPU, bfloat16 first."""
        from sparse_patterns.kernels.dispatch import KERNELS

        own = KERNELS[kernel].tolerances
        types = (torch.bfloat16, torch.float16, torch.float32)
        return [one for one in types if one in own]

    def about(self) -> dict[str, Any]:
        """What a reader of the figures has to know."""
        from benchmarks import machine

        about: dict[str, Any] = dict(machine.about())
        if self.on_gpu:
            about["capability"] = list(torch.cuda.get_device_capability())
        return about


def missing_libraries() -> dict[str, bool]:
    """Return which of the libraries are missing."""
    return {name: importlib.util.find_spec(name) is None for name in LIBRARIES}
