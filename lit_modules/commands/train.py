"""`sparse-patterns fit|validate|test|predict`: Lightning's, with short names and a run folder."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities import rank_zero_only

from lit_modules.callbacks.checkpoints import CheckpointError, is_dry
from lit_modules.callbacks.report import Report
from lit_modules.callbacks.splits import has_batches
from lit_modules.callbacks.stages import Stages
from lit_modules.commands.early.picture import parse_config
from lit_modules.commands.errors import (
    UsageError,
    did_you_mean,
    not_accepted,
    state_dict_mismatch,
    without_types,
)
from lit_modules.commands.links import FromDataError, model_path, names_from_data, taken
from lit_modules.commands.run_folder import (
    RunSettings,
    attach,
    checkpoint_file,
    default_name,
    free_name,
)
from lit_modules.commands.short_names import MODELS, expand, expand_words
from sparse_patterns.registry import Record

__all__ = ["train"]

# `${...}` is resolved after the options of the command line are applied. Without abbreviations, a
# mistyped option is an error and not another option.
PARSER: dict[str, Any] = {"parser_mode": "omegaconf+", "allow_abbrev": False}


def train(
    command: str, words: Sequence[str], datasets: Any, debug: bool, verbose: bool = False
) -> int:
    """Run a trainer command and return the exit status.

    Args:
        command: fit, validate, test or predict.
        words: The rest of the command line.
        datasets: The registry of data sets.
        debug: Whether to show all messages and warnings of the libraries.
        verbose: Whether to tell again what was told when the data was prepared.
    """
    if not debug:
        _quieten()
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    written = expand_words(words, datasets)
    model = model_path(written, datasets, MODELS["language-model"])
    Parser.datasets, Parser.classes = datasets, {"model": model}
    CommandLine.verbose = verbose
    try:
        CommandLine(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=Parser,
            # For each subcommand too: these are parsers of their own.
            parser_kwargs={
                "prog": "sparse-patterns",
                **PARSER,
                **{name: dict(PARSER) for name in LightningCLI.subcommands()},
            },
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=1,
            auto_configure_optimizers=False,
            trainer_defaults={
                # The stages set the number of epochs; -1 means no limit.
                "max_epochs": -1,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 10,
                # The data sets distribute their batches over processes themselves.
                "use_distributed_sampler": False,
                "enable_model_summary": False,
            },
            args=[command, *written],
        )
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise CheckpointError(state_dict_mismatch(str(error))) from error
    return 0


class Parser(LightningArgumentParser):
    """Reads short names in configuration files, and raises errors instead of printing the usage."""

    datasets: Any = None
    classes: ClassVar[dict[str, str]] = {}
    """The classes last named for `data` and `model`, to suggest their fields."""

    def parse_string(self, content: str, path: Any = "", **kwargs: Any) -> Any:
        """Write out the short names of a configuration, then parse it as usual."""
        written: dict[str, Any] = expand(parse_config(content, path), self.datasets)
        for part in ("data", "model"):
            if isinstance(written.get(part), dict) and "class_path" in written[part]:
                self.classes[part] = written[part]["class_path"]
        return super().parse_string(json.dumps(written), path, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what the command line reports in one line."""
        short = without_types(message)
        part = short.partition(":")[0]
        raise UsageError(not_accepted(short, _fields(self.classes.get(part)))) from ex


class SaveConfig(SaveConfigCallback):
    """Saves the configuration of a training run; a test of it does not replace that."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save nothing yet: a run that cannot be resumed as asked keeps its configuration."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, once the weights of the checkpoint are loaded."""
        super().setup(trainer, pl_module, "fit")


class CommandLine(LightningCLI):
    """Adds stages, the run folder and the links from data set to model.

    Attributes:
        verbose: Whether a data set tells again what it told when it was prepared.
    """

    verbose: ClassVar[bool] = False

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options besides those of trainer, model and data."""
        parser.add_lightning_class_args(Stages, "stages")
        parser.add_class_arguments(RunSettings, "run")
        path = Parser.classes["model"]
        # Not another class first: the parser would carry that one's defaults over.
        parser.set_defaults({"model": {"class_path": path}})
        model, names = names_from_data(path)
        for name in names:
            target = f"model.init_args.{name}"
            parser.link_arguments("data", target, taken(name, model), apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Make data set, model and trainer; name what the data set lacks for the model."""
        try:
            super().instantiate_classes()
        except Exception as error:
            plain = FromDataError.in_context_of(error)
            if plain is not None:
                raise plain from None
            short = without_types(str(error))
            if isinstance(error, ValueError) and short != str(error):
                raise ValueError(short) from error
            raise
        if self.verbose and hasattr(self.datamodule, "verbose"):
            self.datamodule.verbose = True

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and set the name of the run, which is saved with the configuration."""
        self.config = parser.parse_args(args)
        settings = self.config[self.config.subcommand]
        _check_strategy(settings.trainer.strategy)
        name = settings.run.name or default_name(args, settings.data.class_path)
        if self.config.subcommand == "fit" and settings.ckpt_path is None:
            name = free_name(Path(settings.run.folder), name)
        settings.run.name = name

    def _parse_ckpt_path(self) -> None:
        # Lightning would replace the user's arguments by the hyper-parameters of the checkpoint; a
        # run could then not be resumed with a longer context or another pattern.
        """Leave the configuration as the user gave it."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with the callbacks, logs and checkpoints of the run folder."""
        given = {**self._get(self.config_init, "trainer"), **kwargs}
        settings = self._get(self.config_init, "run")
        data = self._get(self.config, "data").as_dict()
        self.run_folder = attach(settings, given, self.model, data, str(self.subcommand))
        return super().instantiate_trainer(**given)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        given = arguments.get("ckpt_path")
        arguments["ckpt_path"] = file = checkpoint_file(
            given, self.run_folder, must_exist=subcommand != "fit"
        )
        say = rank_zero_only(print)
        if given is not None and file is None:
            say(f"Run {self.run_folder} has no {given}.ckpt: training starts at step 0.")
        elif subcommand != "fit":
            say(
                f"Weights: {file}"
                if file is not None
                else "Weights: those that the model is made with; --ckpt_path best takes the run's."
            )
        if subcommand == "test":
            # The report prints the figures.
            arguments["verbose"] = False
        if subcommand == "predict":
            # Each batch is written at once, so that all predictions need not fit in memory.
            arguments["return_predictions"] = False
        return arguments

    def after_fit(self) -> None:
        """Test the best weights, unless the settings of the run disable that."""
        settings: RunSettings = self._get(self.config_init, "run")
        if not settings.test or is_dry(self.trainer) or self.trainer.interrupted:
            return
        if not has_batches(self.datamodule, "test"):
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Report):
                    callback.write(self.trainer, self.model)
            name = type(self.datamodule).__name__
            rank_zero_only(print)(
                f"{name} has no test split, so nothing was tested. Run folder: {self.run_folder}"
            )
            return
        folder = self.run_folder / "checkpoints"
        found = [file for name in ("best", "last") if (file := folder / f"{name}.ckpt").is_file()]
        self.trainer.test(
            self.model,
            datamodule=self.datamodule,
            ckpt_path=str(found[0]) if found else None,
            verbose=False,
        )


def _check_strategy(given: Any) -> None:
    """Refuse the name of a strategy that is none, with similar ones; objects pass."""
    known = ["auto", *StrategyRegistry.available_strategies()]
    if isinstance(given, str) and given not in known:
        raise UsageError(
            f"--trainer.strategy: no such strategy {given!r}.{did_you_mean(given, known)} "
            f"Known: {', '.join(known)}"
        )


def _fields(path: str | None) -> list[str]:
    """Return the names of the arguments of a class; [] where there is no such class."""
    module, _, name = (path or "").rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return []
    return [field.name for field in Record("class", name, factory).fields]


def _quieten() -> None:
    """Silence warnings of the libraries about settings that are intended here."""
    # Lightning calls the parser in a way that the parser has deprecated.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*The dirpath has changed from.*",
        ".*is smaller than the logging interval.*",
        ".*You're resuming from a checkpoint that ended before the epoch ended.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=FutureWarning)
