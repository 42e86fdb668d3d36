"""The position of a data set in its training batches, which survives any interruption."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.loading.loader import Batches, Numbers
from datamodules.loading.shards import ALONE, Shard, Source

__all__ = ["ResumableData", "check_at_least"]


class ResumableData(LightningDataModule):
    """Counts the training batches that are done, and makes the loaders.

    Batch number k of a stage is a pure function of seed, stage and k. The state holds the number of
    batches that were trained on, not those fetched ahead, so that a resumed run continues with the
    next batch, and a data module that is used again continues where it stopped.

    Attributes:
        stage: The stage whose batches `train_dataloader` yields, counted from 0.
        batches: Batches of the stage, or None where it has no end.

    Args:
        batch_size: Rows or examples of a batch, over all processes together.
        eval_batch_size: The same in validation and test; None takes `batch_size`.
        seed: Decides what is drawn, and in which order.
        num_workers: Processes that prepare batches ahead; 0 prepares them in the main process.
    """

    def __init__(
        self,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        check_at_least(1, batch_size=batch_size)
        check_at_least(0, num_workers=num_workers)
        if eval_batch_size is not None:
            check_at_least(1, eval_batch_size=eval_batch_size)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.stage = 0
        self.batches: int | None = None
        self._done = 0
        self._progress: Any = None
        self._mark = 0

    @abstractmethod
    def train_source(self, shard: Shard) -> Source:
        """Return the training batches of the current stage for one process."""

    @abstractmethod
    def eval_source(self, split: Any, shard: Shard) -> Source | None:
        """Return the batches of split "val" or "test", or None if there is no such split."""

    def predict_source(self, shard: Shard) -> Source | None:
        """Return the batches to predict on, those of the test split if not said otherwise."""
        return self.eval_source("test", shard)

    def has_batches(self, part: Literal["val", "test", "predict"]) -> bool:
        """Whether there is something to validate, test or predict on."""
        shard = self._shard()
        if part == "predict":
            return self.predict_source(shard) is not None
        return self.eval_source(part, shard) is not None

    def train_dataloader(self) -> Batches:
        """Return the training batches of the stage from the next one on.

        Raises:
            ValueError: There is nothing to train on, or a batch cannot be divided.
        """
        shard = self._shard()
        self._check_divisible(shard)
        source = self.train_source(shard)
        return self._loader(source, lambda: self._numbers(len(source)))

    def val_dataloader(self) -> Batches | list[Any]:
        """Return the batches of the validation split, none if there is no such split."""
        return self._pass(self.eval_source("val", self._shard()))

    def test_dataloader(self) -> Batches | list[Any]:
        """Return the batches of the test split, none if there is no such split."""
        return self._pass(self.eval_source("test", self._shard()))

    def predict_dataloader(self) -> Batches | list[Any]:
        """Return the batches to predict on."""
        return self._pass(self.predict_source(self._shard()))

    @property
    def batches_done(self) -> int:
        """Batches of the stage that were trained on."""
        if self._progress is None:
            return self._done
        return int(self._done + self._progress.total.processed - self._mark)

    def state_dict(self) -> dict[str, Any]:
        """Return the position, as plain data."""
        return {"stage": self.stage, "batches_done": self.batches_done, "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the position of a checkpoint; lengths and batch sizes stay as configured."""
        if state_dict["seed"] != self.seed:
            rank_zero_warn(
                f"the checkpoint was trained with data seed {state_dict['seed']}, this run has "
                f"{self.seed}: it goes on with other sequences"
            )
        self.stage = state_dict["stage"]
        self._go_to(state_dict["batches_done"])

    def _check_divisible(self, shard: Shard) -> None:
        if self.batch_size % shard.processes:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be divided among {shard.processes} "
                f"processes; choose a multiple of {shard.processes}"
            )

    def _loader(self, source: Any, numbers: Any) -> Batches:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return Batches(source, numbers, self.num_workers, pin_memory=on_gpu)

    def _pass(self, source: Source | None) -> Batches | list[Any]:
        """Return a loader of one pass over a source."""
        if source is None:
            return []
        return self._loader(source, lambda: Numbers(0, range(len(source))))

    def _shard(self) -> Shard:
        """Return the part of this process among those that see different data."""
        kwargs = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        return Shard(kwargs["rank"], kwargs["num_replicas"]) if kwargs else ALONE

    def _go_to(self, batches_done: int) -> None:
        self._done = batches_done
        # The counters of the trainer may yet be restored from a checkpoint, so the place from which
        # they count is noted when batches are first asked for.
        self._progress = None

    def _numbers(self, per_pass: int) -> Numbers:
        """Return the batches of the epoch that begins, or is resumed, now."""
        trainer: Any = self.trainer
        if trainer is not None and trainer.overfit_batches > 0:
            return Numbers(0, range(per_pass))
        loop = trainer.fit_loop.epoch_loop if trainer is not None else None
        progress = loop.batch_progress if loop is not None else None
        if progress is not self._progress:
            self._done = self.batches_done
            self._progress = progress
            self._mark = progress.total.processed if progress is not None else 0
        done = self.batches_done
        behind = 0
        if loop is not None and loop.restarting and not loop.batch_progress.is_last_batch:
            behind = loop.batch_progress.current.processed
        end = self.batches if self.batches is not None else done + per_pass - behind
        return Numbers(behind, range(done, max(done, end)))


def check_at_least(least: int, **values: int) -> None:
    """Refuse numbers below `least`.

    Raises:
        ValueError: A value is no int or too small; the message names it.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int >= {least}, got {value!r}")
