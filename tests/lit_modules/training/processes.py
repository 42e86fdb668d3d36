"""A small training run in any number of processes, for `test_distributed.py`.

Run as a program, by every process. Each takes its share of the rows of the same batches.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader

from lit_modules.language_model import LanguageModel

ROWS, LENGTH, BATCHES = 4, 16, 6


def batches(seed: int) -> list[dict[str, torch.Tensor]]:
    """Segments of four streams; rows are scored in part and start anew at different places."""
    generator = torch.Generator().manual_seed(seed)
    stream = torch.randint(11, (ROWS, BATCHES * LENGTH + 1), generator=generator)
    made = []
    for index in range(BATCHES):
        piece = stream[:, index * LENGTH : (index + 1) * LENGTH + 1]
        labels = piece[:, 1:].clone()
        for row in range(ROWS):
            labels[row, : 3 * row] = -100
        made.append(
            {
                "input_ids": piece[:, :-1],
                "labels": labels,
                "units_scored": torch.tensor([20, 30, 5, 40]),
                "continues": torch.tensor([index > 0, index % 3 > 0, index > 0, False]),
            }
        )
    return made


class Data(LightningDataModule):
    """Gives each process its rows."""

    def loader(self, seed: int) -> DataLoader[Any]:
        mine = slice(self.trainer.global_rank, None, self.trainer.world_size)
        shares = [{k: v[mine] for k, v in batch.items()} for batch in batches(seed)]
        return DataLoader(shares, batch_size=None)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(1)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(2)


class Report(Callback):
    """Notes the loss of each batch, and how many of the weights a process holds."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def main() -> None:
    """Train, validate, save and test from the checkpoint; process 0 writes what it saw."""
    strategy, devices, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    # Not torch.manual_seed: strategies of several processes seed again with what this one notes.
    seed_everything(0, verbose=False)
    model = LanguageModel(
        11,
        layers=2,
        heads=2,
        width=16,
        dropout=0.0,
        pattern={"window": {"left": 7, "right": 0}},
        memory=7,
        learning_rate=0.01,
    )
    kinds: dict[str, Any] = {
        "auto": "auto",
        "ddp": "ddp",
        "fsdp2": ModelParallelStrategy(
            data_parallel_size=devices,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
        ),
    }
    report = Report()
    trainer = Trainer(
        strategy=kinds[strategy],
        devices=devices,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=[report],
        default_root_dir=folder,
    )
    trainer.fit(model, datamodule=Data())
    validated = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    local = sum(
        (p.to_local() if hasattr(p, "to_local") else p).numel() for p in model.decoder.parameters()
    )
    trainer.save_checkpoint(folder / "model.ckpt")
    if trainer.is_global_zero:
        found = {"losses": report.losses, "validated": validated, "held": local}
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
