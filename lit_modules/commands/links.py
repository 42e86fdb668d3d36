"""Arguments of a model taken from its data set: named by the class, set by the command line.

A model class lists them in `from_data`; each is an attribute of the data set and an argument of the
model:

    class Classifier(LightningModule):
        from_data = ("vocabulary_size", "pad_id", "classes")
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lit_modules.commands.short_names import MODELS, expand

__all__ = ["FromDataError", "model_path", "names_from_data", "taken"]

# What a model without `from_data` takes, if it has an argument of the name.
_USUAL = ("vocabulary_size", "unit")


class FromDataError(Exception):
    """A value that a model takes from its data set is not available; `error` is for the user.

    The parser replaces an error of a link by another error, which has this one in its context.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error

    @classmethod
    def in_context_of(cls, error: BaseException | None) -> Exception | None:
        """Return the error for the user in the context of another one, None if there is none."""
        while error is not None:
            if isinstance(error, cls):
                return error.error
            error = error.__cause__ or error.__context__
        return None


def model_path(words: Sequence[str], datasets: Any, default: str) -> str:
    """Return the class path of the model that a command line names last, directly or in a file.

    Args:
        words: The command line, short names written out.
        datasets: What finds a data set by name.
        default: The class path where none is named, and the data set has no `task` that has one.
    """
    found = _named(words, datasets, "model")
    if found is not None:
        return found
    data = _imported(_named(words, datasets, "data") or "")
    return MODELS.get(str(getattr(data, "task", "")), default)


def _named(words: Sequence[str], datasets: Any, part: str) -> str | None:
    """Return the class path that is named last for `part`, "model" or "data"."""
    found = None
    for option, value in _options(words):
        if option in (f"--{part}", f"--{part}.class_path") and "{" not in value:
            found = value
        elif option in ("--config", "-c"):
            found = _path_in(value, datasets, part) or found
    return found


def names_from_data(path: str) -> tuple[type | None, tuple[str, ...]]:
    """Return the class and what it takes from the data set; None and nothing if there is no such.

    The parser reports a class that cannot be imported.
    """
    found = _imported(path)
    if found is None:
        return None, ()
    declared = getattr(found, "from_data", None)
    if declared is not None:
        return found, tuple(declared)
    arguments = inspect.signature(found).parameters
    return found, tuple(name for name in _USUAL if name in arguments)


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def taken(name: str, model: type | None) -> Callable[[Any], Any]:
    """Return a function that reads an attribute of a data set, for a link of the parser.

    The function raises `FromDataError` where the data set does not have it or fails.
    """

    def from_data_set(data: Any) -> Any:
        missing = object()
        try:
            value = getattr(data, name, missing)
        except Exception as error:
            raise FromDataError(error) from error
        if value is missing:
            wanted = model.__name__ if model else "the model"
            raise FromDataError(
                ValueError(
                    f"{wanted} takes {name!r} from its data set, which {type(data).__name__} does "
                    "not have: choose another data set or model"
                )
            )
        return value

    return from_data_set


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        option, equals, value = word.partition("=")
        yield option, value if equals else after


def _path_in(config: str, datasets: Any, part: str) -> str | None:
    """Return the class path of a part of a configuration; the parser reports its errors."""
    from omegaconf import OmegaConf

    if not config:
        return None
    try:
        text = Path(config).read_text(encoding="utf-8") if Path(config).is_file() else config
        content = OmegaConf.to_container(OmegaConf.create(text))
        path = expand({part: content[part]}, datasets)[part]["class_path"]
    except Exception:
        return None
    return str(path)
