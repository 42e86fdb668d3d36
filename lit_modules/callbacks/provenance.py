"""The data set of a model in its checkpoint, so that text is encoded and decoded as in training."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["KEY", "Provenance"]

KEY = "sparse_patterns_data"
"""Key of a checkpoint that holds the class path and the arguments of the data set."""


class Provenance(Callback):
    """Saves which data set a model was trained on, as plain data.

    Args:
        data: `class_path` and `init_args` of the data set.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the description of the data set."""
        checkpoint[KEY] = self.data
