"""Running a stage table: one epoch is one stage, and a resume starts at the exact batch."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_modules.callbacks.checkpoints import is_dry
from lit_modules.training.optimization import put_on_step
from lit_modules.training.stages import Decay, Doubling, Position, Stage, table

__all__ = ["Stages"]


class Stages(Callback):
    """Sets sequence length, windows and batch of each stage on data set, model and trainer.

    Without `table` and `doubling` it does nothing: the run then has ordinary epochs.

    The data set needs `set_stage(stage, sequence_length, batch_size, batches_done, batches)`; a
    model with `set_window_scale(scale)` has its windows scaled. Everything a stage decides is
    derived from the table and the number of optimizer steps, also on a resume, so the table may be
    changed between two runs: a longer context is a stage added at the end.

    Args:
        table: The stages in full.
        doubling: The short form: double window and length, halve the rate.
        warmup: Share of a stage over which its learning rate rises linearly from zero.
        warmup_limit: Warm-up never takes more optimizer steps than this.
        decay: How the learning rate falls over the whole run, besides the scale of each stage:
            none, linear, cosine, or polynomial, which falls from the end of the first warm-up on.
        floor: Share of the learning rate that is left at the end of the decay.
        power: Exponent of the polynomial: what is left of the run, to this power.
    """

    def __init__(
        self,
        table: list[Stage] | None = None,
        doubling: Doubling | None = None,
        warmup: float = 0.1,
        warmup_limit: int = 10_000,
        decay: Decay = "none",
        floor: float = 0.0,
        power: float = 1.0,
    ) -> None:
        self.table = _make(table, doubling, warmup, warmup_limit, decay, floor, power)
        self._limit: int | None = None

    def learning_rate_factor(self, step: int) -> float:
        """Return what the learning rate is multiplied by at optimizer step `step`."""
        return self.table.learning_rate_factor(step) if self.table else 1.0

    def position(self, step: int) -> Position | None:
        """Return the position of optimizer step `step` in the table, or None without stages."""
        return self.table.at(step) if self.table else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Turn the table into epochs and prepare the first stage.

        Outside training the data has the length of the last stage, also in a test without training.
        """
        if self.table is None:
            return
        if stage != "fit":
            last = self.table.stages[-1]
            if hasattr(_data(trainer), "set_stage"):
                _data(trainer).set_stage(
                    stage=len(self.table.stages) - 1,
                    sequence_length=last.sequence_length,
                    batch_size=last.batch_size,
                )
            return
        if trainer.limit_train_batches != 1.0 and not is_dry(trainer):
            raise ValueError(
                f"trainer.limit_train_batches is {trainer.limit_train_batches}, but the stages say "
                "how many batches there are; to train for less, give trainer.max_steps"
            )
        if not hasattr(_data(trainer), "set_stage"):
            raise ValueError(
                f"stages need a data set with set_stage(), {type(_data(trainer)).__name__} has none"
            )
        # Lightning restarts a run that is limited by steps from other counters than one that is
        # limited by epochs. A step limit shortens the table instead, so that every run is
        # limited by epochs.
        cap = trainer.max_steps if trainer.max_steps != -1 else self.table.steps
        self._limit = min(cap, self.table.steps)
        trainer.fit_loop.epoch_loop.max_steps = -1
        trainer.fit_loop.max_epochs = sum(f < self._limit for f in self.table.first_steps)
        # A new length needs a new loader.
        trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        self._apply(trainer, pl_module, 0)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go to the batch after the last optimizer step of the checkpoint.

        A checkpoint written after an exception may be between two optimizer steps. Gradients are
        not saved, so the batches since the last step are taken again; the counters are set
        accordingly.
        """
        if self._limit is None or "loops" not in checkpoint:
            return
        step = int(checkpoint["global_step"])
        self._rewind(checkpoint["loops"]["fit_loop"], step)
        if step < self._limit:
            self._apply(trainer, pl_module, step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the scheduler to the step of the optimizer; after an exception they may differ."""
        if self._limit is not None:
            put_on_step(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the windows of the model to those of the stage that starts or continues."""
        if self._limit is not None:
            assert self.table is not None
            self._apply_model(trainer, pl_module, self.table.at(trainer.global_step))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the data of the next stage: loaders are made before the next epoch starts.

        The model keeps its windows until then, so that a checkpoint written at the end of an epoch
        is that of the stage that was trained.
        """
        if self._limit is not None and trainer.global_step < self._limit:
            assert self.table is not None
            self._apply_data(trainer, self.table.at(trainer.global_step))

    def _apply(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        assert self.table is not None
        at = self.table.at(step)
        self._apply_data(trainer, at)
        self._apply_model(trainer, pl_module, at)

    def _apply_data(self, trainer: Trainer, at: Position) -> None:
        assert self._limit is not None
        steps = min(at.stage.steps, self._limit - at.first_step)
        _data(trainer).set_stage(
            stage=at.index,
            sequence_length=at.stage.sequence_length,
            batch_size=at.stage.batch_size,
            batches_done=at.batches_done,
            batches=steps * at.stage.accumulation,
        )

    def _apply_model(self, trainer: Trainer, pl_module: LightningModule, at: Position) -> None:
        trainer.accumulate_grad_batches = at.stage.accumulation
        set_window_scale = getattr(pl_module, "set_window_scale", None)
        if set_window_scale is not None:
            set_window_scale(at.stage.window_scale)
        elif at.stage.window_scale != 1.0:
            raise ValueError(
                f"stage {at.index} has window_scale {at.stage.window_scale}, but "
                f"{type(pl_module).__name__} has no set_window_scale()"
            )

    def _rewind(self, loops: dict[str, Any], step: int) -> None:
        """Set the saved counters to the state between two epochs, at the start of the next batch.

        The remaining batches of the stage are then a separate epoch.
        """
        assert self.table is not None
        assert self._limit is not None
        at = self.table.at(step)
        finished = step >= self._limit
        epochs = sum(f < self._limit for f in self.table.first_steps) if finished else at.index
        batches = at.batches_done + sum(s.batches for s in self.table.stages[: at.index])
        _fill(loops["epoch_progress"], total=epochs, current=epochs)
        _fill(loops["epoch_loop.batch_progress"], total=batches, current=0)
        _fill(loops["epoch_loop.scheduler_progress"], total=step, current=0)
        loops["epoch_loop.batch_progress"]["is_last_batch"] = False
        for name in [name for name in loops if name.startswith("epoch_loop.val_loop.")]:
            del loops[name]
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step
        loops["state_dict"].pop("combined_loader", None)


# The argument `table` hides the function of that name inside the class.
_make = table


def _data(trainer: Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]


def _fill(progress: dict[str, Any], total: int, current: int) -> None:
    for part, value in (("total", total), ("current", current)):
        progress[part] = dict.fromkeys(progress[part], value)
