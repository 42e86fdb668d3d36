"""Random numbers that depend on the batch alone, so that a resumed run draws the same."""

from __future__ import annotations

import os
import random
import sys
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["SeedEachBatch"]


class SeedEachBatch(Callback):
    """Seeds Python, NumPy and torch before each training batch, by seed, process and batch.

    Saving the states of the generators would restore the moment of the checkpoint. Seeds by
    batch do not depend on what happens between two optimizer steps: a validation run or a sample
    that draws random numbers, a restarted gradient accumulation, another number of data workers.

    Args:
        seed: The seed of the run; None takes that of Lightning's `seed_everything`, or 0.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fix the seed; every process sees the same one."""
        if self.seed is None:
            self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators for this batch."""
        assert self.seed is not None
        batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        # The hash mixes the three numbers: plain sums would give neighbouring processes and batches
        # the same seeds. Of a tuple of ints it is the same in every process.
        seed = hash((self.seed, trainer.global_rank, batches)) % 2**32
        random.seed(seed)
        torch.manual_seed(seed)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Return the seed: a resumed run uses the seed of the run that it resumes."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed of the run that is resumed."""
        self.seed = state_dict["seed"]
