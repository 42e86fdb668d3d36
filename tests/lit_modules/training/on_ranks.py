"""Training runs on several processes, for `test_context_parallel.py`.

Run as a program, by every process of a group: `on_ranks.py FOLDER FUNCTION [WORD ...]` calls a
function, and writes what it returns, or the error, to FOLDER/RANK.json.
"""

import json
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch.utils.data import DataLoader

import sparse_patterns as sp
from lit_modules.callbacks.checkpoints import LastCheckpoint
from lit_modules.language_model import LanguageModel
from lit_modules.training.context_parallel import (
    ContextParallelStrategy,
    ShardedContextParallelStrategy,
)
from tests.lit_modules.modules.kinds import batches as batches_of
from tests.lit_modules.modules.kinds import data, make, trainer
from tests.lit_modules.task_batches import TaskData


class Losses(Callback):
    """Notes the loss of each batch."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.found.append(float(trainer.callback_metrics["train/loss"]))


def strategies(name: str) -> Any:
    """A strategy by its name; a number after it is the size of the data dimension."""
    kind, _, size = name.partition(":")
    given: Any = {"data_parallel_size": int(size)} if size else {}
    kinds = {"context": ContextParallelStrategy, "fsdp": ShardedContextParallelStrategy}
    return kinds[kind](**given) if kind in kinds else kind


def trained(kind: str, strategy: str, folder: Path, epochs: int = 2) -> dict[str, Any]:
    """Fit, validate and predict; the weights are saved to the folder."""
    seed_everything(0, verbose=False)
    ranks = int(os.environ["RANKS"])
    losses = Losses()
    given: dict[str, Any] = {"max_epochs": epochs, "use_distributed_sampler": False}
    given["precision"] = os.environ["PRECISION"]
    run = trainer(losses, strategy=strategies(strategy), devices=ranks, **given)
    model = make(kind)
    run.fit(model, datamodule=data(kind, 2))
    run.save_checkpoint(folder / f"{kind}.ckpt")
    (figures,) = run.validate(model, datamodule=data(kind), verbose=False)
    predictions = run.predict(model, datamodule=data(kind))
    return {
        "losses": losses.found,
        "figures": figures,
        "predictions": [[_plain(one) for one in batch] for batch in predictions or ()],
    }


def _plain(prediction: Any) -> Any:
    return prediction.tolist() if isinstance(prediction, torch.Tensor) else prediction


def train(folder: Path, strategy: str, *kinds: str) -> dict[str, Any]:
    """Train modules one after the other."""
    return {kind: trained(kind, strategy, folder) for kind in kinds}


class Peak(Callback):
    """Notes the most memory of each training step, in bytes above that before training."""

    def __init__(self) -> None:
        self.before = 0
        self.found: list[int] = []

    def on_train_start(self, *_: Any) -> None:
        self.before = _memory("VmRSS")

    def on_train_batch_start(self, *_: Any) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.

    def on_train_batch_end(self, *_: Any) -> None:
        self.found.append(_memory("VmHWM") - self.before)


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def memory(folder: Path, strategy: str, length: str, sizes: str) -> dict[str, Any]:
    """Train a language model and return the most memory of a step, and of the process."""
    seed_everything(0, verbose=False)
    fields = {"dropout": 0.0, **json.loads(sizes)}
    model = LanguageModel(256, **fields)
    ids = torch.randint(256, (4, 1, int(length)))
    batches = [{"input_ids": one, "labels": one} for one in ids]
    peak, ranks = Peak(), int(os.environ["RANKS"])
    run = trainer(peak, strategy=strategies(strategy), devices=ranks, max_epochs=1)
    run.fit(model, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return {"step": max(peak.found), "process": peak.before + max(peak.found), "all": peak.found}


class Kill(Callback):
    """Ends processes as a signal does, in the middle of the second epoch."""

    def __init__(self, ranks: tuple[int, ...] = (0, 1)) -> None:
        self.ranks = ranks

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 6 and trainer.global_rank in self.ranks:
            os.kill(os.getpid(), signal.SIGKILL)


def _language(folder: Path, strategy: str, *callbacks: Callback, **given: Any) -> Trainer:
    seed_everything(0, verbose=False)
    ranks = int(os.environ["RANKS"])
    same: dict[str, Any] = {"max_epochs": 2, "use_distributed_sampler": False}
    same |= {"precision": os.environ["PRECISION"], "devices": ranks, "enable_checkpointing": True}
    run = trainer(*callbacks, LastCheckpoint(folder, 4), strategy=strategies(strategy), **same)
    run.fit(make("language"), datamodule=data("language", 2), **given)
    return run


def killed(folder: Path, strategy: str) -> None:
    """Train until the process is killed, with a checkpoint after the first epoch."""
    _language(folder, strategy, Kill())


def resumed(folder: Path, strategy: str) -> dict[str, Any]:
    """Go on from the checkpoint that a killed run has left."""
    run = _language(folder, strategy, ckpt_path=str(folder / "last.ckpt"))
    run.save_checkpoint(folder / "language.ckpt")
    return {"steps": run.global_step}


def left_alone(folder: Path) -> str:
    """Return the error of the first process when the other one dies."""
    try:
        _language(folder, "context", Kill((1,)))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


class _Other(TaskData):
    """Batches that differ between processes."""

    def train_dataloader(self) -> Any:
        batches = batches_of("language")
        batches[1]["input_ids"][0, 3] += int(os.environ["LOCAL_RANK"])
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def refused(folder: Path) -> dict[str, str]:
    """Return the errors of runs that do not fit together."""
    rank = int(os.environ["LOCAL_RANK"])
    window = sp.Window(3 + rank, 0)

    def run(strategy: str, data_: Any, **fields: Any) -> str:
        seed_everything(0, verbose=False)
        given = {"max_epochs": 1, "devices": 2, "use_distributed_sampler": False}
        try:
            fit = trainer(strategy=strategies(strategy), **given)
            fit.fit(make("language", **fields), datamodule=data_)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "no error"

    return {
        "sizes": run("context:3", data("language")),
        "batches": run("context", _Other(batches_of("language"))),
        "patterns": run("context", data("language"), pattern=window),
        "after all": run("context", data("language")),
    }


def main() -> None:
    """Call a function as one process of a group."""
    place, function, *words = sys.argv[1:]
    folder, rank = Path(place), os.environ.get("LOCAL_RANK", "0")
    # A process of its own, though it is alone: no other is started from here.
    os.environ |= {"LOCAL_RANK": rank, "NODE_RANK": "0"}
    warnings.filterwarnings("ignore")
    try:
        found = globals()[function](folder, *words)
    except BaseException as error:
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
