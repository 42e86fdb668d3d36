"""Progress: a bar in a terminal, a line every few seconds if the output is a file."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from lit_modules.training.stages import table_of

__all__ = ["ProgressLines", "StageRichBar", "progress"]


def progress() -> Callback:
    """Return the progress display: Rich's (else tqdm's) bar in a terminal, lines elsewhere."""
    if not sys.stderr.isatty() or not sys.stdout.isatty():
        return ProgressLines()
    if importlib.util.find_spec("rich") is None:
        return TQDMProgressBar()
    return StageRichBar()


class StageRichBar(RichProgressBar):
    """Rich's bar; counts stages instead of epochs if the run has stages."""

    def _get_train_description(self, current_epoch: int) -> str:
        words = _where(self.trainer, current_epoch)
        if len(self.validation_description) > len(words):
            # Both bars keep one column.
            words = f"{words:{len(self.validation_description)}}"
        return words

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what is shown beside the bar; a run folder has no version number."""
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return shown


class ProgressLines(ProgressBar):
    """Prints a line every few seconds: stage, step, and the metrics meant for the progress bar.

    Args:
        seconds: Time between two lines.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._enabled = True
        # The monotonic clock may start at 0 when the machine starts, so 0 may be recent.
        self._printed = -math.inf

    def disable(self) -> None:
        """Print nothing: only the first process reports."""
        self._enabled = False

    def enable(self) -> None:
        """Print again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a message of the model."""
        if self._enabled:
            print(*args, **kwargs)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the metrics of the line."""
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return shown

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Print a line if `seconds` have passed since the last one, or after the last batch."""
        now = time.monotonic()
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if self._enabled and (last or now - self._printed >= self.seconds):
            self._printed = now
            metrics = "  ".join(
                f"{name} {_number(value)}"
                for name, value in self.get_metrics(trainer, pl_module).items()
            )
            where = _where(trainer, trainer.current_epoch)
            print(f"{where}  step {trainer.global_step}{_of(trainer)}  {metrics}", flush=True)


def _where(trainer: Trainer, epoch: int) -> str:
    """Return the stage or epoch, and how many there are where the run has an end to them."""
    word = "stage" if table_of(trainer) else "epoch"
    last = trainer.max_epochs
    return f"{word} {epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")


def _of(trainer: Trainer) -> str:
    table = table_of(trainer)
    return f"/{table.steps}" if table else ""


def _number(value: Any) -> str:
    number = float(value)
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
