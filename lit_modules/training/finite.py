"""A run stops at a loss that is not finite, and says where it was and what to try."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import Metric

from lit_modules.training.stages import table_of

__all__ = ["WatchedModule"]

_PATIENCE = 50
"""Losses on an accelerator that are looked at together: looking at one waits for its batch."""

_SKIPPED = 20
"""Losses in a row that may not be finite where a gradient scaler skips their optimizer steps."""


class _Seen(NamedTuple):
    """The loss of a batch, and where it was."""

    loss: Tensor
    step: int | None
    batch: int


class WatchedModule(LightningModule):
    """A module whose training stops at a loss that is not finite.

    On an accelerator losses are looked at now and then, before validation, and at the end of an
    epoch; the step that is named is in any case that of the loss.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[_Seen] = []
        self._in_a_row = 0

    # Bookkeeping, on which a compiler would only break.
    @torch.compiler.disable
    def log(self, name: str, value: Any, *args: Any, **given: Any) -> None:
        """Log a figure, where there is a trainer or Fabric to log it.

        Only a trainer takes a whole metric, which it computes at the end of an epoch.
        """
        if self._trainer is not None or (
            self._fabric is not None and not isinstance(value, Metric)
        ):
            super().log(name, value, *args, **given)

    @torch.compiler.disable
    def watch(self, loss: Tensor, batch_idx: int) -> None:
        """Look at a loss of training, now or soon.

        Not while `Tuner.lr_find` tries rates until the loss diverges.

        Args:
            loss: (), the same on all processes, so that all of them stop.
            batch_idx: The number of the batch in the epoch.

        Raises:
            FloatingPointError: A loss is not finite.
        """
        trainer = getattr(self, "_trainer", None)
        if _seeks_rate(trainer):
            return
        step = None if trainer is None else trainer.global_step
        self._seen.append(_Seen(loss.detach(), step, batch_idx))
        if loss.device.type == "cpu" or len(self._seen) >= _PATIENCE:
            self._look()

    def on_train_epoch_end(self) -> None:
        """Look at the losses that were not looked at."""
        self._look()

    def on_validation_start(self) -> None:
        """Look at the losses that were not looked at, before weights are saved for their score."""
        self._look()

    def on_validation_end(self) -> None:
        """Warn where the validation loss is not finite."""
        self._warn("val")

    def on_test_end(self) -> None:
        """Warn where the test loss is not finite."""
        self._warn("test")

    def _look(self) -> None:
        seen, self._seen = self._seen, []
        if not seen:
            return
        for one, loss in zip(seen, torch.stack([one.loss for one in seen]).tolist(), strict=True):
            self._in_a_row = 0 if math.isfinite(loss) else self._in_a_row + 1
            if self._in_a_row > (_SKIPPED if self._scales() else 0):
                self._in_a_row = 0
                raise FloatingPointError(
                    f"the training loss is {loss} {self._where(one)}: {self._advice(one)}"
                )

    def _warn(self, part: str) -> None:
        loss = float(self.trainer.callback_metrics.get(f"{part}/loss", 0.0))
        if not math.isfinite(loss) and not _seeks_rate(self.trainer):
            rank_zero_warn(
                f"{part}/loss is {loss} after optimizer step {self.trainer.global_step}: the loss "
                f"of a batch is not finite, or nothing was scored; {self._advice()}"
            )

    def _where(self, seen: _Seen) -> str:
        batch = f"batch {seen.batch}"
        if seen.step is None:
            return f"at {batch}"
        table = table_of(self.trainer)
        stage = f"epoch {self.trainer.current_epoch}"
        if table is not None:
            stage = f"stage {table.at(seen.step).index + 1} of {len(table.stages)}"
        return f"at optimizer step {seen.step} ({batch} of {stage})"

    def _advice(self, seen: _Seen | None = None) -> str:
        if seen is not None and not (seen.batch if seen.step is None else seen.step):
            return self._advice_at_the_start()
        precision = str(getattr(getattr(self, "_trainer", None), "precision", self.dtype))
        advice = (
            "try a lower learning rate, a longer warm-up or trainer.gradient_clip_val=1.0, from "
            "weights that were saved before"
        )
        if "16" in precision and "bf16" not in precision and "bfloat16" not in precision:
            advice += (
                f"; in precision {precision} numbers beyond 65504 are infinite: bf16-mixed and "
                "32-true have no such limit"
            )
        return advice

    def _advice_at_the_start(self) -> str:
        """Nothing was trained yet, so it is no rate that is wrong."""
        for name, weight in self.named_parameters():
            # Of a sharded weight, what this process has.
            own = getattr(weight, "to_local", lambda weight=weight: weight)()
            if not bool(own.isfinite().all()):
                return (
                    f"the weight {name} is not finite before the first step. Weights that are made "
                    "by init_module(empty_init=True) hold whatever was in memory until they are "
                    "loaded or drawn: load a checkpoint, or make the model without empty_init"
                )
        return (
            "no step was made yet, so the cause is in the weights that the run began with or in "
            "the batch: look for huge numbers in both"
        )

    def _scales(self) -> bool:
        trainer: Any = getattr(self, "_trainer", None)
        plugin = getattr(trainer, "precision_plugin", None)
        return getattr(plugin, "scaler", None) is not None


def _seeks_rate(trainer: Any) -> bool:
    """Return whether Lightning's learning-rate finder runs, known by its callback alone."""
    callbacks = getattr(trainer, "callbacks", ())
    return any(type(callback).__name__ == "_LRCallback" for callback in callbacks)
