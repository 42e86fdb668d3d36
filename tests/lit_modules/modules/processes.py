"""Programs that other tests run in processes of their own.

`run FILE`: load a whole module from a file, and write its scores and a validation figure.
`shard FOLDER`: shard a model over two processes, and write what each of them held at most.
"""

import json
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy

from lit_modules.language_model import LanguageModel
from lit_modules.metrics.throughput import peak_memory
from tests.lit_modules.modules.kinds import data, flat, inputs, trainer

SIZES: dict[str, Any] = dict(layers=8, heads=4, width=512, pattern="longformer-causal")


def scores(model: Any, kind: str) -> tuple[list[float], float]:
    """The scores of a batch, and the validation loss."""
    found = flat(model.eval()(inputs(kind))).tolist()
    (figures,) = trainer().validate(model, datamodule=data(kind), verbose=False)
    return found, figures["val/loss"]


def run(folder: Path) -> None:
    """Load every module of a folder; the name of a file is the kind."""
    found = {}
    for file in sorted(folder.glob("*.pt")):
        model = torch.load(file, weights_only=False)
        found[file.stem] = scores(model, file.stem)
        pickle.loads(pickle.dumps(model))
    (folder / "found.json").write_text(json.dumps(found))


class Peak(Callback):
    """Notes the most memory of the process before the first step, above what it had at first."""

    def __init__(self) -> None:
        self.at_first = peak_memory(torch.device("cpu"))
        self.most = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.most = peak_memory(torch.device("cpu")) - self.at_first


def shard(folder: Path) -> None:
    """Fit one step of a model over two processes."""
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    strategy = ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False
    )
    peak = Peak()
    fit = trainer(peak, strategy=strategy, devices=2, max_steps=1, use_distributed_sampler=False)
    peak.at_first = peak_memory(torch.device("cpu"))
    with fit.init_module(empty_init=True):
        model = LanguageModel(32, **SIZES)
    whole = sum(p.numel() for p in model.parameters())
    fit.fit(model, train_dataloaders=data("language").train_dataloader())
    held = sum(p.to_local().numel() for p in model.parameters())  # type: ignore[attr-defined]
    found = {
        "most": peak.most / (4 * whole),
        "held": held / whole,
        "loss": float(fit.callback_metrics["train/loss"]),
    }
    (folder / f"{fit.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    if sys.argv[1] == "run":
        run(Path(sys.argv[2]))
    else:
        shard(Path(sys.argv[2]))
