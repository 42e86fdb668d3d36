"""Where predictions go: one JSON object a line, as text where they are tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

__all__ = ["WritePredictions"]


class WritePredictions(Callback):
    """Writes what `predict_step` returns to `predictions.jsonl` in the run folder.

    Token ids become text through the data set's `decode`. Several processes write a file each.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def _file(self, trainer: Trainer) -> Path:
        rank = f"-{trainer.global_rank}" if trainer.world_size > 1 else ""
        return self.folder / f"predictions{rank}.jsonl"

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an empty file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file(trainer).write_text("", encoding="utf-8")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Append the predictions of a batch."""
        decode = getattr(trainer.datamodule, "decode", None)  # type: ignore[attr-defined]
        with open(self._file(trainer), "a", encoding="utf-8") as file:
            for row in outputs:
                plain = row.tolist() if isinstance(row, Tensor) else row
                tokens = isinstance(row, Tensor) and row.dtype == torch.int64 and row.ndim == 1
                record = {"text": decode(plain)} if tokens and decode else {"prediction": plain}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where they are."""
        if trainer.is_global_zero:
            print(f"Predictions: {self._file(trainer)}")
