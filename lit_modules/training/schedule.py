"""The learning rate of a run that is counted in epochs: warm-up, then decay to zero.

Runs with stages have theirs from the stage table instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from lightning.pytorch import LightningModule

from lit_modules.training.stages import table_of

__all__ = ["Decay", "factor", "schedule", "steps_of"]

Decay = Literal["none", "linear", "cosine"]


def factor(step: int, total: int, warmup: float, decay: Decay) -> float:
    """Return what the learning rate is multiplied by.

    Args:
        step: Optimizer steps done.
        total: Optimizer steps of the run.
        warmup: Optimizer steps over which the rate rises; below 1, the share of `total`.
        decay: How it falls from there to the end.
    """
    rise = int(warmup * total) if warmup < 1 else int(warmup)
    if step < rise:
        return (step + 1) / rise
    if decay == "none":
        return 1.0
    gone = min(1.0, (step - rise) / max(1, total - rise))
    return 1 - gone if decay == "linear" else (1 + math.cos(math.pi * gone)) / 2


def steps_of(module: LightningModule) -> int:
    """Return the optimizer steps of the run; the batches of an epoch must have been counted.

    Raises:
        ValueError: The run has no end.
    """
    trainer = module.trainer
    ends = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        batches = trainer.num_training_batches
        if not math.isinf(batches):
            per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
            ends.append(trainer.max_epochs * per_epoch)
    if not ends:
        raise ValueError(
            "the learning rate follows the length of the run, but it has no end: give "
            "trainer.max_epochs or trainer.max_steps"
        )
    return min(ends)


def check_schedule(warmup: float, decay: str) -> None:
    """Refuse a warm-up or a decay that there is not.

    Raises:
        ValueError: One is out of range; the message names it.
    """
    if not 0 <= warmup < math.inf:
        raise ValueError(f"warmup must be >= 0 and finite, got {warmup}")
    if decay not in ("none", "linear", "cosine"):
        raise ValueError(f"decay must be none, linear or cosine, got {decay!r}")


def schedule(module: LightningModule, warmup: float, decay: Decay) -> Callable[[int], float] | None:
    """Return the factor by optimizer step, None where stages determine it.

    A pure function of the step and the length of the run, so that a resumed run continues exactly.

    Raises:
        ValueError: A number is out of range.
    """
    check_schedule(warmup, decay)
    trainer = getattr(module, "_trainer", None)
    if trainer is None:
        return lambda step: 1.0
    if table_of(trainer) is not None:
        return None

    def at(step: int) -> float:
        if math.isinf(trainer.num_training_batches) and trainer.max_steps < 1:
            # Called before the batches of an epoch have been counted. The module corrects the rate
            # when training starts.
            return 1.0
        return factor(step, steps_of(module), warmup, decay)

    return at
