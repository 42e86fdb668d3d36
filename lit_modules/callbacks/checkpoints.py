"""Checkpoints written atomically: a full disk or a killed process leaves no partial file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from sparse_patterns.config.files import whole_file

__all__ = [
    "AtomicCheckpointIO",
    "BestCheckpoint",
    "CheckpointError",
    "LastCheckpoint",
    "best_checkpoint",
    "is_dry",
]


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or does not fit; the message is meant for the user."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames: a file under the final name is complete."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`, replacing an existing file once all is on the disk.

        Raises:
            CheckpointError: It could not be written; what was there before is untouched.
        """
        if storage_options is not None:
            raise TypeError("storage_options are for remote file systems; paths here are local")
        target = Path(path)
        try:
            with whole_file(target) as part, open(part, "wb") as file:
                torch.save(checkpoint, file)
        # torch reports a failed write as a RuntimeError of its zip writer; the cause is in its
        # context.
        except (OSError, RuntimeError) as error:
            kept = "; the checkpoint written there before is kept" if target.exists() else ""
            raise CheckpointError(
                f"cannot write checkpoint {target}: {_reason(error)}{kept}"
            ) from error


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt` up to date: every so many steps, after each epoch, and when a run fails.

    Args:
        folder: Where it is kept.
        every_n_steps: Optimizer steps between two saves.
    """

    def __init__(self, folder: str | Path, every_n_steps: int) -> None:
        super().__init__(
            dirpath=folder,
            filename="last",
            every_n_train_steps=every_n_steps,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """Return a name that does not change with the interval, so that a resume may change it."""
        return type(self).__qualname__

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the steps since the last save have added."""
        super().on_train_end(trainer, pl_module)
        if trainer.global_step > self._last_global_step_saved and not is_dry(trainer):
            self._save_checkpoint(trainer, self.format_checkpoint_name({}))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save the optimizer steps that would be lost, unless saving is what failed."""
        if isinstance(exception, CheckpointError) or not trainer.training or is_dry(trainer):
            return
        # Saving waits for every process. Interrupts reach all of them, errors maybe one.
        together = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if trainer.world_size > 1 and not together:
            return
        if trainer.global_step > self._last_global_step_saved:
            # The exception that ended the run is the one to report.
            with contextlib.suppress(CheckpointError):
                self._save_checkpoint(trainer, self.format_checkpoint_name({}))


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoint; before the first validation there is nothing to compare."""

    _validated = False

    @property
    def state_key(self) -> str:
        """Return the name of the base, under which earlier runs have saved the state."""
        own, base = type(self).__qualname__, ModelCheckpoint.__qualname__
        return super().state_key.replace(own, base, 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless the run has not validated yet, or never does."""
        if self._validated or self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; from now on, a metric that is not there is an error of the model."""
        self._validated = True
        super().on_validation_end(trainer, pl_module)


def best_checkpoint(folder: str | Path, monitor: str, mode: str = "min") -> BestCheckpoint:
    """Keep `best.ckpt`, the weights with the best value of a validation metric."""
    return BestCheckpoint(
        dirpath=folder,
        filename="best",
        monitor=monitor,
        mode=mode,
        # A metric such as `val/loss` in a file name would make a folder.
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )


def is_dry(trainer: Trainer) -> bool:
    """Whether the trainer only tries a few steps (`fast_dev_run`) and writes no files."""
    return bool(getattr(trainer, "fast_dev_run", False))


def _reason(error: BaseException | None) -> str:
    """Return the message of the operating system, from any exception in the chain."""
    first, seen = error, error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    return str(first).partition("\n")[0]
