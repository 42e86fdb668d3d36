"""Short names in configurations and on the command line, written out for the parser of classes.

`data: text8` becomes `data: {class_path: datamodules.language_model.text8.Text8}`, and fields
beside the name become its `init_args`; `${data.sequence_length}` then refers to it there. The
long form passes through unchanged, so that a saved configuration can be read again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_modules.commands.configs.shipped import config_path, pattern_path
from lit_modules.commands.errors import UsageError, did_you_mean

__all__ = ["MODELS", "expand", "expand_words", "read_pattern"]

MODELS = {
    "language-model": "lit_modules.language_model.LanguageModel",
    "masked-language-model": "lit_modules.masked_language_model.MaskedLanguageModel",
    "classification": "lit_modules.classification.Classification",
    "extractive-qa": "lit_modules.extractive_qa.ExtractiveQA",
    "candidate-choice": "lit_modules.candidate_choice.CandidateChoice",
    "multihop-qa": "lit_modules.multihop_qa.MultihopQA",
    "coreference": "lit_modules.coreference.Coreference",
}
"""Models by short name; any other model is given by its import path.

The model of a data set with an attribute `task` of the same name, where no other is named.
"""

_STAGES = ("table", "doubling")
_OWN_KEYS = ("class_path", "init_args", "dict_kwargs")
_INTERPOLATION = re.compile(r"\$\{\s*(data|model)\.([A-Za-z_]\w*)")


def expand(config: Mapping[str, Any], datasets: Any) -> dict[str, Any]:
    """Write out the short names of one configuration file, and `stages: null`.

    Args:
        config: The file as plain data, interpolations unresolved.
        datasets: The registry of data sets; it has `path_of(name)`.

    Raises:
        UsageError: A name is unknown; the message suggests near ones.
    """
    written: dict[str, Any] = _interpolations(dict(config))
    if written.get("stages", {}) is None:
        written["stages"] = dict.fromkeys(_STAGES)
    if "data" in written:
        written["data"] = _component(written["data"], lambda name: _data_path(name, datasets))
    if "model" in written:
        written["model"] = _component(written["model"], _model_path)
        arguments = written["model"].get("init_args", {})
        for part in (arguments, arguments.get("encoder")):
            if isinstance(part, dict) and "pattern" in part:
                part["pattern"] = read_pattern(part["pattern"])
    return written


def expand_words(words: Sequence[str], datasets: Any) -> list[str]:
    """Write out the short names among the words of a command line.

    The name of a shipped configuration becomes the path of its file.

    Raises:
        UsageError: `--config` names neither a file nor a shipped configuration, or a name is
            unknown; the message suggests near ones.
    """
    paths: dict[str, Callable[[str], str]] = {
        "--config": config_path,
        "-c": config_path,
        "--data": lambda name: _data_path(name, datasets),
        "--model": _model_path,
        "--model.pattern": _pattern_word,
        "--model.init_args.pattern": _pattern_word,
        "--model.encoder.pattern": _pattern_word,
        "--model.init_args.encoder.pattern": _pattern_word,
    }
    written: list[str] = []
    expected: str | None = None
    for word in words:
        option, equals, value = word.partition("=")
        if expected is not None:
            word = paths[expected](word)
        elif option in paths and equals:
            word = f"{option}={paths[option](value)}"
        expected = word if expected is None and word in paths else None
        written.append(_interpolations(word))
    return _without_stages(written)


def _without_stages(words: Sequence[str]) -> list[str]:
    """Write out `--stages null`: neither of the two ways to have stages is taken."""
    written: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--stages":
            value = next(rest, None)
            given = [word] if value is None else [word, value]
        else:
            value, given = word.removeprefix("--stages="), [word]
        none = word.startswith("--stages") and value in ("null", "~")
        written += [f"--stages.{name}=null" for name in _STAGES] if none else given
    return written


def read_pattern(value: Any) -> Any:
    """Return the pattern in a YAML file where `value` names one, and `value` otherwise.

    Args:
        value: The path of a file, the name of a shipped one such as `patterns/window-and-sinks`, or
            anything else.

    Raises:
        UsageError: There is no such file.
    """
    if isinstance(value, str):
        value = pattern_path(value)
    if not isinstance(value, str) or Path(value).suffix not in (".yaml", ".yml"):
        return value
    if not Path(value).is_file():
        raise UsageError(f"pattern {value}: no such file")
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(value), resolve=True)


def _pattern_word(value: str) -> str:
    import json

    read = read_pattern(value)
    return value if isinstance(read, str) else json.dumps(read)


def _component(value: Any, path_of: Callable[[str], str]) -> Any:
    """Write out `name` or `{name: ..., field: ...}` as class path and arguments."""
    if isinstance(value, str):
        return {"class_path": path_of(value)}
    if not isinstance(value, Mapping):
        return value
    rest = dict(value)
    written = {key: rest.pop(key) for key in _OWN_KEYS if key in rest}
    if "name" in rest and "class_path" not in written:
        written = {"class_path": path_of(rest.pop("name")), **written}
    elif "class_path" in written:
        written["class_path"] = path_of(written["class_path"])
    if rest:
        written["init_args"] = {**written.get("init_args", {}), **rest}
    return written


def _data_path(name: str, datasets: Any) -> str:
    # Braces make it a whole configuration.
    if not isinstance(name, str) or "{" in name:
        return name
    try:
        return str(datasets.path_of(name))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _model_path(name: str) -> str:
    if not isinstance(name, str) or "." in name or "{" in name:
        return name
    if name not in MODELS:
        raise UsageError(
            f"unknown model {name!r}.{did_you_mean(name, MODELS)} Known: {', '.join(MODELS)}; "
            "another model is given by its import path"
        )
    return MODELS[name]


def _interpolations(value: Any) -> Any:
    """Let `${data.field}` point to where the field is written out."""
    if isinstance(value, str):
        return _INTERPOLATION.sub(
            lambda m: m[0] if m[2] in _OWN_KEYS else f"${{{m[1]}.init_args.{m[2]}", value
        )
    if isinstance(value, Mapping):
        return {key: _interpolations(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolations(item) for item in value]
    return value
