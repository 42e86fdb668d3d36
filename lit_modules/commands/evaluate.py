"""`sparse-patterns evaluate`: score a file of predictions, or an official submission."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ActionConfigFile, set_parsing_settings
from lightning.pytorch import LightningDataModule

from lit_modules.callbacks.report import print_table
from lit_modules.callbacks.strict_json import dumps
from lit_modules.commands.errors import UsageError
from lit_modules.commands.short_names import expand_words
from lit_modules.commands.train import PARSER, Parser
from lit_modules.evaluation import COUNTS, read_predictions, score

__all__ = ["evaluate"]

# Parts of a training configuration that do not concern the data set.
_OTHER_PARTS = ("trainer", "stages", "run", "seed_everything", "ckpt_path", "weights_only")


def evaluate(words: Sequence[str], datasets: Any) -> int:
    """Run the command and return the exit status.

    Args:
        words: The rest of the command line.
        datasets: The registry of data sets.
    """
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    # Lightning calls the parser in a way that the parser has deprecated.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    Parser.datasets, Parser.classes = datasets, {}
    parser = _parser()
    given = parser.parse_args(expand_words(words, datasets))
    if given.data is None:
        raise UsageError("evaluate needs a data set: --data NAME or a --config that names one")
    model = (given.model or {}).get("init_args", {})
    data = parser.instantiate_classes(given).data
    figures = score(
        data,
        given.split,
        read_predictions(Path(given.predictions), data),
        rules=given.rules or model.get("rules", "squad"),
        no_answer=model.get("no_answer", False) if given.no_answer is None else given.no_answer,
        singletons=model.get("singletons") if given.singletons is None else given.singletons,
    )
    print_table(
        f"{Path(given.predictions).name} on {given.split}",
        [(n, f"{int(v):,}" if n in COUNTS else f"{v:.4f}") for n, v in figures.items()],
    )
    if given.output is not None:
        Path(given.output).write_text(dumps(figures, indent=2), encoding="utf-8")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="sparse-patterns evaluate", description=__doc__, **PARSER)
    parser.add_argument(
        "--config", action=ActionConfigFile, help="a configuration of a training run, or its data"
    )
    parser.add_argument(
        "--predictions", type=str, required=True, help="predictions.jsonl, or a submission file"
    )
    parser.add_argument(
        "--split",
        type=Literal["train", "val", "test"],
        default="val",
        help="the part with the reference answers",
    )
    parser.add_argument(
        "--rules",
        type=Literal["squad", "triviaqa"] | None,
        help="how answers are compared; by default as in the configured model, else squad",
    )
    parser.add_argument(
        "--no_answer", type=bool | None, help="whether a question may have no answer, likewise"
    )
    parser.add_argument(
        "--singletons",
        type=bool | None,
        help="whether clusters of one mention are scored; by default as the configured model "
        "predicts them, else where the predictions have one",
    )
    parser.add_argument("--output", type=str | None, help="a JSON file for the figures")
    parser.add_subclass_arguments(LightningDataModule, "data", required=False)
    parser.add_argument("--model", type=dict | None, help="of a configuration: rules, no_answer")
    for part in _OTHER_PARTS:
        parser.add_argument(f"--{part}", type=Any, help="of a configuration: not used")
    return parser
