"""Whose FlashAttention 2 runs the partials: xformers', that of mslk, or that of torch.

xformers' fused operators have moved to a package of their own, `mslk`, and newer releases of
xformers give them out of there. Torch has FlashAttention 2 inside, which both of them call, so
where neither is installed, torch's own operators are called. The first engine of the list that is
there is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from sparse_patterns.kernels.fused.operator import Operator
from sparse_patterns.kernels.fused.torch_flash import TorchFlashOperator, missing_operators
from sparse_patterns.kernels.fused.xformers import MSLK, XFORMERS, XformersOperator, missing_library

OLDEST_CARD = (8, 0)
"""Compute capability that FlashAttention 2 asks for."""


@dataclass(frozen=True)
class Engine:
    """An implementation of the operator.

    Attributes:
        name: Its name.
        make: Makes the operator.
        missing: Returns what it lacks, None if nothing.
    """

    name: str
    make: Callable[[], Operator]
    missing: Callable[[], str | None]


ENGINES = (
    Engine("xformers", lambda: XformersOperator(XFORMERS), lambda: missing_library(XFORMERS)),
    Engine("mslk", lambda: XformersOperator(MSLK), lambda: missing_library(MSLK)),
    Engine("torch", TorchFlashOperator, missing_operators),
)
"""All engines, the one to be preferred first."""


@lru_cache(maxsize=1)
def engine() -> Engine | None:
    """Return the engine that is taken, None if none is there."""
    return next((one for one in ENGINES if one.missing() is None), None)


@lru_cache(maxsize=1)
def missing_device() -> str | None:
    """Return what keeps FlashAttention 2 from running on this machine's GPU; None if nothing."""
    if not torch.cuda.is_available():
        built = "torch sees none" if torch.version.cuda else "torch is built without CUDA"
        return f"no CUDA device is there ({built}): needs an NVIDIA GPU and a CUDA build of torch"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST_CARD:
        found, least = (".".join(map(str, one)) for one in (capability, OLDEST_CARD))
        return f"the GPU has compute capability {found}, FlashAttention 2 needs {least} or more"
    return None


@lru_cache(maxsize=1)
def missing_engines() -> str | None:
    """Return why none of the engines is there, each by name; None if one is."""
    if engine() is not None:
        return None
    told = [str(one.missing()) for one in ENGINES]
    return f"no FlashAttention 2 is there: {'; '.join(told)}"


def forget() -> None:
    """Look again at what is installed."""
    for one in (engine, missing_device, missing_engines, missing_operators, missing_library):
        one.cache_clear()
