"""Refuses wrong names of a trainer command: options, fields, data sets, patterns and files."""

from __future__ import annotations

import ast
import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_modules.commands.early.picture import PARTS, Given, Picture
from lit_modules.commands.early.registered import PATTERNS
from lit_modules.commands.early.source import arguments_of, constant_of, find
from lit_modules.commands.errors import UsageError, did_you_mean
from lit_modules.commands.short_names import MODELS

__all__ = ["check", "check_file", "check_plain_file"]

_CLASSES = {
    "trainer": "lightning.pytorch.Trainer",
    "stages": "lit_modules.callbacks.stages.Stages",
    "run": "lit_modules.commands.run_folder.RunSettings",
}
_OURS = "lit_modules."
_ENCODER = "lit_modules.pretrained.backbone.EncoderSettings"
_WORDS = ("config", "print_config", "help", "seed_everything", *PARTS)
_OF_EVALUATE = (
    "predictions",
    "split",
    "rules",
    "no_answer",
    "singletons",
    "output",
    "ckpt_path",
    "weights_only",
)
# Arguments of a trainer's methods that are no options: the command line makes these objects.
_OBJECTS = ("self", "model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders")
# Of our own data sets: what names files and folders that must be there.
_SPLITS = ("train", "val", "test")
_FILES = ("path", "files", *_SPLITS, "val_files", "test_files")


def check(command: str, words: Sequence[str]) -> list[str]:
    """Refuse what is known to be wrong, and return the words to be parsed.

    What cannot be told from the source is left to the parser. A word goes before what a
    configuration says in another way: `--data.path` takes the place of the files of single splits
    there, and `--data.train` that of a `path` which is not there.

    Args:
        command: fit, validate, test, predict or evaluate.
        words: The rest of the command line.

    Raises:
        UsageError: There is no such option, field, configuration, data set, model, pattern or file.
    """
    if any(word in ("-h", "--help") or word.split("=")[0].endswith(".help") for word in words):
        return list(words)
    picture = Picture.of(words)
    _check_options(command, picture)
    if "data" not in {**picture.classes, **picture.others}:
        raise UsageError(
            f"{command} needs a data set: --data NAME or a --config that names one; "
            "`sparse-patterns data list` prints the names"
        )
    if command == "evaluate" and "predictions" not in picture.others:
        raise UsageError("evaluate needs --predictions, predictions.jsonl or a submission file")
    for part, path in _classes(picture).items():
        _check_fields(part, path, picture.fields[part])
        if part == "model" and path.startswith(_OURS):
            _check_pattern(picture.fields["model"])
    replaced = _replaced(picture)
    _check_files(picture, replaced, model=command != "evaluate")
    return [*words, *(f"--data.{name}=null" for name in replaced)]


def check_plain_file(path: str, origin: str = "--ckpt_path") -> None:
    """Refuse a file, such as a checkpoint, that is not there.

    Raises:
        UsageError: There is no such file.
    """
    if not Path(path).is_file():
        raise UsageError(f"{origin} {path}: no such file")


def check_file(path: str, origin: str, hint: str = "") -> None:
    """Refuse a file, folder or glob that is not there; addresses and interpolations pass.

    Args:
        path: What the user gave.
        origin: The words that gave it.
        hint: Ends the message.

    Raises:
        UsageError: Nothing has this name.
    """
    if "://" in path or "${" in path:
        return
    full = Path(path).expanduser()
    if not full.exists() and not (glob.has_magic(path) and glob.glob(str(full), recursive=True)):
        raise UsageError(
            f"{origin}: {path!r} names no file, folder or glob; looked from {os.getcwd()}{hint}"
        )


def _classes(picture: Picture) -> dict[str, str]:
    """Return the class of each part whose class can be told."""
    found = {part: path for part, path in picture.classes.items() if path is not None}
    if "model" not in picture.classes and (data := find(found.get("data", ""))) is not None:
        found["model"] = MODELS.get(str(constant_of(data, "task")), MODELS["language-model"])
    return {**found, **_CLASSES}


def _check_options(command: str, picture: Picture) -> None:
    trainer = find(_CLASSES["trainer"])
    if trainer is None:
        return
    known = [*_WORDS, *(_OF_EVALUATE if command == "evaluate" else ())]
    for node in trainer.node.body:
        if isinstance(node, ast.FunctionDef) and node.name == command:
            arguments = (*node.args.args, *node.args.kwonlyargs)
            known += [one.arg for one in arguments if one.arg not in _OBJECTS]
    for name, given in picture.others.items():
        first = name.partition(".")[0]
        if first not in known:
            near = did_you_mean(first, known)
            raise UsageError(f"{given.origin}: no such option.{near} Known: {', '.join(known)}")


def _check_fields(part: str, path: str, fields: Mapping[str, Given]) -> None:
    definition = find(path)
    allowed = arguments_of(definition) if definition is not None else None
    if definition is None or allowed is None:
        return
    what = definition.node.name
    for name, given in fields.items():
        _check_field(name.partition(".")[0], given, allowed, what)
        if part == "model" and path.startswith(_OURS) and name.partition(".")[0] == "encoder":
            encoder = find(_ENCODER)
            inner = arguments_of(encoder) if encoder is not None else None
            names = given.value if isinstance(given.value, Mapping) else [name.partition(".")[2]]
            for one in names if inner is not None else ():
                _check_field(one.partition(".")[0], given, inner or (), "the encoder")


def _check_field(name: str, given: Given, allowed: Iterable[str], what: str) -> None:
    name = name.rstrip("+")
    if name and name not in allowed:
        raise UsageError(
            f"{given.origin}: {what} has no argument {name!r}.{did_you_mean(name, allowed)} "
            f"Known: {', '.join(sorted(allowed))}"
        )


def _check_pattern(model: Mapping[str, Given]) -> None:
    given = model.get("pattern") or model.get("encoder.pattern")
    value = given.value if given is not None else None
    if value is None and "encoder" in model and isinstance(model["encoder"].value, Mapping):
        value = model["encoder"].value.get("pattern")
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        PATTERNS.check_fields(value["name"], [key for key in value if key != "name"])
    elif isinstance(value, str) and not set("${[:") & set(value):
        PATTERNS.check(value)


def _replaced(picture: Picture) -> list[str]:
    """Return the fields of the data set that words of the command line take the place of."""
    data = picture.fields["data"]
    path, train = data.get("path"), data.get("train")
    if path is not None and path.by_word and path.value is not None:
        return [
            name for name in _SPLITS if name in data and data[name].value and not data[name].by_word
        ]
    if path is None or train is None or not train.by_word or not isinstance(path.value, str):
        return []
    return [] if path.by_word or Path(path.value).expanduser().exists() else ["path"]


def _check_files(picture: Picture, replaced: list[str], model: bool) -> None:
    if str(picture.classes.get("data")).startswith("datamodules."):
        for name in _FILES:
            if name in picture.fields["data"] and name not in replaced:
                _check_each(picture.fields["data"][name])
    predictions = picture.others.get("predictions")
    if predictions is not None:
        check_plain_file(str(predictions.value), "--predictions")
    if not model:
        return
    checkpoint = picture.others.get("ckpt_path")
    if checkpoint is None or checkpoint.value is None:
        encoder = picture.fields["model"].get("encoder.path") or _inside(picture, "encoder", "path")
        if encoder is not None:
            _check_each(encoder)
    elif isinstance(checkpoint.value, str) and checkpoint.value not in ("best", "last"):
        check_plain_file(checkpoint.value)


def _inside(picture: Picture, field: str, name: str) -> Given | None:
    given = picture.fields["model"].get(field)
    if given is None or not isinstance(given.value, Mapping) or name not in given.value:
        return None
    return Given(given.value[name], f"{given.origin}.{name}", given.by_word)


def _check_each(given: Given) -> None:
    entries: Any = given.value if isinstance(given.value, list) else [given.value]
    for entry in entries:
        if isinstance(entry, str):
            option = given.origin.rpartition(" ")[2]
            check_file(entry, given.origin, "" if given.by_word else f"; give --{option}")
