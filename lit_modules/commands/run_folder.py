"""The folder of a run: configuration, logs, checkpoints and pictures in one place."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import Logger

from lit_modules.callbacks.checkpoints import AtomicCheckpointIO, LastCheckpoint, best_checkpoint
from lit_modules.callbacks.csv_log import CSVLog
from lit_modules.callbacks.pictures import Pictures
from lit_modules.callbacks.predictions import WritePredictions
from lit_modules.callbacks.progress import progress
from lit_modules.callbacks.provenance import Provenance
from lit_modules.callbacks.randomness import SeedEachBatch
from lit_modules.callbacks.report import Report
from lit_modules.callbacks.splits import Splits
from lit_modules.callbacks.tensorboard import LateTensorBoard
from lit_modules.commands.errors import UsageError

__all__ = ["RunSettings", "attach", "checkpoint_file", "default_name", "free_name"]


@dataclass(frozen=True)
class RunSettings:
    """What a run writes, and where.

    Args:
        folder: Where the folders of all runs are.
        name: The folder of this run; by default the name of the configuration file.
        save_every: Optimizer steps between two saves of `checkpoints/last.ckpt`.
        test: Test the best weights after training.
        sample: Tokens of the sample that is generated after the test; 0 for none.
        pictures: Draw the patterns and the curves after training.
    """

    folder: str = "runs"
    name: str | None = None
    save_every: int = 500
    test: bool = True
    sample: int = 300
    pictures: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.save_every < 1:
            raise ValueError(f"run save_every must be >= 1, got {self.save_every}")
        if self.sample < 0:
            raise ValueError(f"run sample must be >= 0, got {self.sample}")


def default_name(words: Sequence[str], data: str) -> str:
    """Return the name of the last configuration file on a command line, or that of the data set.

    Args:
        words: The command line.
        data: The class path of the data set.
    """
    files = [
        word.partition("=")[2] or after
        for word, after in zip(words, [*words[1:], ""], strict=True)
        if word in ("--config", "-c") or word.startswith("--config=")
    ]
    return Path(files[-1]).stem if files else data.rpartition(".")[2].lower()


def free_name(folder: Path, name: str) -> str:
    """Return `name`, with a number appended if a run of that name has a checkpoint."""
    number, free = 1, name
    while (folder / free / "checkpoints" / "last.ckpt").exists():
        number += 1
        free = f"{name}-{number}"
    return free


def checkpoint_file(given: str | None, run: Path, must_exist: bool) -> str | None:
    """Return the checkpoint file for `best`, `last` or a path.

    Args:
        given: What the user gave; None for none.
        run: The run folder.
        must_exist: Whether `best` and `last` must exist. Training may start without them, so that
            one command both starts a run and resumes it.

    Raises:
        UsageError: There is no such file.
    """
    if given is None:
        return None
    if given not in ("best", "last"):
        if not Path(given).is_file():
            raise UsageError(f"--ckpt_path {given}: no such file")
        return given
    file = run / "checkpoints" / f"{given}.ckpt"
    if file.is_file():
        return str(file)
    if must_exist:
        raise UsageError(
            f"--ckpt_path {given}: run {run} has no {file.name}; "
            "give --run.name or the path of a file"
        )
    return None


def attach(
    settings: RunSettings,
    trainer: dict[str, Any],
    model: LightningModule,
    data: dict[str, Any],
    command: str,
) -> Path:
    """Add to the trainer's arguments what writes to the run folder, and return the folder.

    Loggers, callbacks and plugins that the user configures stay; `logger: false` and
    `enable_checkpointing: false` are honoured.

    Args:
        settings: The `run` part of the configuration.
        trainer: The arguments of the trainer; changed in place.
        model: The model; its attribute `monitor` names the validation metric that is best when
            lowest, or highest if its `monitor_mode` is "max".
        data: `class_path` and `init_args` of the data set.
        command: fit, validate, test or predict.
    """
    run = Path(settings.folder) / str(settings.name)
    fit, dry = command == "fit", bool(trainer.get("fast_dev_run"))
    callbacks: list[Any] = [
        Splits(),
        SeedEachBatch(),
        Provenance(data),
        Report(run, settings.sample),
    ]
    if trainer.get("enable_progress_bar") is not False:
        callbacks.append(progress())
    if command == "predict":
        callbacks.append(WritePredictions(run))
    if fit and not dry and settings.pictures:
        callbacks.append(Pictures(run))
    if trainer.get("enable_checkpointing") is not False and not dry:
        folder = run / "checkpoints"
        # Lightning takes "best" from the first checkpoint callback.
        monitor = getattr(model, "monitor", "val/loss")
        callbacks.append(best_checkpoint(folder, monitor, getattr(model, "monitor_mode", "min")))
        callbacks.append(LastCheckpoint(folder, settings.save_every))
    trainer["callbacks"] = [*_listed(trainer.get("callbacks")), *callbacks]
    trainer["plugins"] = [*_listed(trainer.get("plugins")), AtomicCheckpointIO()]
    if trainer.get("logger") is not False:
        given = trainer.get("logger")
        own = _loggers(run) if fit else []
        trainer["logger"] = [*_listed(None if given is True else given), *own] or False
    return run


def _loggers(run: Path) -> list[Logger]:
    loggers: list[Logger] = [CSVLog(run)]
    if importlib.util.find_spec("tensorboard") is not None:
        loggers.append(
            LateTensorBoard(run, name="", version="tensorboard", default_hp_metric=False)
        )
    return loggers


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
