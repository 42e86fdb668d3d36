"""Which splits there are: none that is missing is evaluated, and asking for one is an error."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["Splits", "has_batches"]


class Splits(Callback):
    """Looks at the splits of the data set before anything runs.

    Training goes without validation where there is no validation split. A data set without
    `has_batches(part)` is not looked at.

    Raises:
        ValueError: `validate`, `test` or `predict` has nothing to run on.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look; the data set has been set up."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit":
            if trainer.limit_val_batches != 0 and not has_batches(data, "val"):
                trainer.limit_val_batches = 0
            return
        # Lightning gives a member of an enumeration, which is written as such in a text.
        stage = str(getattr(stage, "value", stage))
        part = {"validate": "val"}.get(stage, stage)
        if has_batches(data, part):
            return
        there = [split for split in _splits(data) if split == "train" or has_batches(data, split)]
        name = type(data).__name__
        if part == "predict":
            raise ValueError(
                f"{name} has neither a test nor a validation split to predict on, only "
                f"{' and '.join(there) or 'none'}; give --data.predict_split train to predict on it"
            )
        raise ValueError(
            f"{name} has no {part} split to {stage} on; it has {' and '.join(there) or 'none'}. "
            f"Give the files of one, or a share of the training data (--data.{part}_fraction)"
        )


def has_batches(data: Any, part: str) -> bool:
    """Whether a data set has batches of "val", "test" or "predict"; true where it cannot tell."""
    told = getattr(data, "has_batches", None)
    return told is None or bool(told(part))


def _splits(data: Any) -> list[str]:
    splits = getattr(data, "splits", None)
    return list(splits()) if callable(splits) else ["train", "val", "test"]
