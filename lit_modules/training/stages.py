"""Stages of a training run: how length, window, learning rate and batch change with the step.

A long context costs the most to train on, so it comes last. A run is a table of stages, each a
number of optimizer steps with its sequence length, window scale, learning rate and batch
(Longformer, section 4.1: "double window and length, halve the rate, five stages"). Everything is a
pure function of the table and the step, so that a run that was killed and resumed equals one
without interruption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lightning.pytorch import Trainer

__all__ = ["Decay", "Doubling", "Position", "Stage", "StageTable", "table_of"]

Decay = Literal["none", "linear", "cosine", "polynomial"]
"""How a learning rate falls over a run."""


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    Args:
        steps: Optimizer steps of the stage.
        sequence_length: Tokens of a training sequence.
        window_scale: What the windows of the model's pattern are multiplied by.
        learning_rate_scale: What the model's learning rate is multiplied by.
        batch_size: Sequences of one batch, over all processes together.
        accumulation: Batches whose gradients make one optimizer step.
    """

    steps: int
    sequence_length: int
    window_scale: float = 1.0
    learning_rate_scale: float = 1.0
    batch_size: int = 8
    accumulation: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("steps", "sequence_length", "batch_size", "accumulation"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"stage {name} must be an int >= 1, got {value!r}")
        for name in ("window_scale", "learning_rate_scale"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0 or math.isinf(value):
                raise ValueError(f"stage {name} must be a number > 0, got {value!r}")

    @property
    def batches(self) -> int:
        """Batches of the whole stage."""
        return self.steps * self.accumulation


@dataclass(frozen=True)
class Doubling:
    """The short form: each stage doubles window and length and halves the learning rate.

    Args:
        stages: Number of stages.
        steps: Optimizer steps of each stage; one number is for all stages.
        sequence_length: Tokens of a sequence in the first stage.
        longest: No sequence is longer than this, however often it would double.
        batch_size: Sequences of one batch over all processes; one number is for all stages.
        accumulation: Batches whose gradients make one optimizer step; one number is for all stages.
        learning_rate_ratio: What the learning rate is multiplied by from stage to stage.
    """

    stages: int
    steps: int | list[int]
    sequence_length: int
    longest: int | None = None
    batch_size: int | list[int] = 8
    accumulation: int | list[int] = 1
    learning_rate_ratio: float = 0.5

    def rows(self) -> tuple[Stage, ...]:
        """Return the stages in full.

        Raises:
            ValueError: A list has another length than `stages`, or a number is out of range.
        """
        if self.stages < 1:
            raise ValueError(f"doubling stages must be >= 1, got {self.stages}")
        columns = {
            name: self._column(name, getattr(self, name))
            for name in ("steps", "batch_size", "accumulation")
        }
        longest = self.longest or self.sequence_length * 2**self.stages
        return tuple(
            Stage(
                steps=columns["steps"][index],
                sequence_length=min(self.sequence_length * 2**index, longest),
                window_scale=float(2**index),
                learning_rate_scale=self.learning_rate_ratio**index,
                batch_size=columns["batch_size"][index],
                accumulation=columns["accumulation"][index],
            )
            for index in range(self.stages)
        )

    def _column(self, name: str, value: int | list[int]) -> list[int]:
        values = [value] * self.stages if isinstance(value, int) else list(value)
        if len(values) != self.stages:
            raise ValueError(
                f"doubling {name} must be one number or {self.stages} of them "
                f"(one per stage), got {values}"
            )
        return values


@dataclass(frozen=True)
class Position:
    """Position of an optimizer step in the table.

    Attributes:
        index: The stage, counted from 0.
        stage: Its row.
        first_step: The optimizer step at which the stage begins.
        steps_done: Optimizer steps of the stage that are done.
    """

    index: int
    stage: Stage
    first_step: int
    steps_done: int

    @property
    def batches_done(self) -> int:
        """Batches of the stage that are done."""
        return self.steps_done * self.stage.accumulation


@dataclass(frozen=True)
class StageTable:
    """All stages of a run, and the learning rate over them.

    Args:
        stages: The rows, in order.
        warmup: Share of a stage over which its learning rate rises linearly from zero.
        warmup_limit: Warm-up never takes more optimizer steps than this.
        decay: How the learning rate falls over the whole run, besides the scale of each stage:
            none, linear, cosine, or polynomial, which falls from the end of the first warm-up on.
        floor: Share of the learning rate that is left at the end of the decay.
        power: Exponent of the polynomial: what is left of the run, to this power.
    """

    stages: tuple[Stage, ...]
    warmup: float = 0.1
    warmup_limit: int = 10_000
    decay: Decay = "none"
    floor: float = 0.0
    power: float = 1.0
    first_steps: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the numbers and add up the steps."""
        if not self.stages:
            raise ValueError("a stage table needs at least one stage")
        for name in ("warmup", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"stages {name} must be in 0..1, got {getattr(self, name)}")
        if self.warmup_limit < 0:
            raise ValueError(f"stages warmup_limit must be >= 0, got {self.warmup_limit}")
        decays = get_args(Decay)
        if self.decay not in decays:
            allowed = f"{', '.join(decays[:-1])} or {decays[-1]}"
            raise ValueError(f"stages decay must be {allowed}, got {self.decay!r}")
        if not self.power > 0:
            raise ValueError(f"stages power must be > 0, got {self.power}")
        if self.power != 1 and self.decay != "polynomial":
            raise ValueError(
                f"stages power is the exponent of a polynomial decay, got power {self.power} with "
                f"decay {self.decay!r}"
            )
        firsts = [0]
        for stage in self.stages:
            firsts.append(firsts[-1] + stage.steps)
        object.__setattr__(self, "stages", tuple(self.stages))
        object.__setattr__(self, "first_steps", tuple(firsts[:-1]))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.first_steps[-1] + self.stages[-1].steps

    def at(self, step: int) -> Position:
        """Return the stage to which optimizer step `step` (counted from 0) belongs.

        A step beyond the last one is at the end of the last stage.

        Raises:
            ValueError: `step` is negative.
        """
        if step < 0:
            raise ValueError(f"step must be >= 0, got {step}")
        step = min(step, self.steps)
        index = max(i for i, first in enumerate(self.first_steps) if first <= step)
        first = self.first_steps[index]
        return Position(index, self.stages[index], first, step - first)

    @property
    def tokens(self) -> int:
        """Tokens that the whole run trains on."""
        return sum(s.batches * s.batch_size * s.sequence_length for s in self.stages)

    def learning_rate_factor(self, step: int) -> float:
        """Return what the model's learning rate is multiplied by at optimizer step `step`.

        The product of the stage's scale, the warm-up within the stage, and the decay over the run.
        """
        at = self.at(step)
        warmup = self._warmup_steps(at.stage)
        rise = min(1.0, (at.steps_done + 1) / warmup) if warmup else 1.0
        return at.stage.learning_rate_scale * rise * self._fall(min(step, self.steps))

    def _warmup_steps(self, stage: Stage) -> int:
        return min(int(stage.steps * self.warmup), self.warmup_limit)

    def _fall(self, step: int) -> float:
        progress = step / self.steps
        if self.decay == "none":
            return 1.0
        if self.decay == "linear":
            left = 1 - progress
        elif self.decay == "cosine":
            left = (1 + math.cos(math.pi * progress)) / 2
        else:
            first = self._warmup_steps(self.stages[0])
            left = (1 - max(0, step - first) / max(1, self.steps - first)) ** self.power
        return self.floor + (1 - self.floor) * left


def table(
    rows: Sequence[Stage] | None,
    doubling: Doubling | None,
    warmup: float = 0.1,
    warmup_limit: int = 10_000,
    decay: Decay = "none",
    floor: float = 0.0,
    power: float = 1.0,
) -> StageTable | None:
    """Make the table from either form, or None where neither is given.

    Raises:
        ValueError: Both forms are given, or a number is out of range.
    """
    if rows is not None and doubling is not None:
        raise ValueError("stages takes either table or doubling, got both")
    if rows is None and doubling is None:
        return None
    stages = tuple(rows) if rows is not None else doubling.rows()  # type: ignore[union-attr]
    return StageTable(stages, warmup, warmup_limit, decay, floor, power)


def table_of(trainer: Trainer) -> StageTable | None:
    """Return the stages of a run, which its callback `Stages` holds; None where it has none."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    tables = [getattr(callback, "table", None) for callback in callbacks]
    return next((one for one in tables if isinstance(one, StageTable)), None)
