"""What a command line of a trainer command says, files and words laid over one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lit_modules.commands.configs.shipped import shipped_name
from lit_modules.commands.early.registered import DATA_SETS
from lit_modules.commands.errors import UsageError
from lit_modules.commands.short_names import expand, expand_words

__all__ = ["Given", "Picture", "options", "parse_config"]

PARTS = ("data", "model", "trainer", "stages", "run")
# Keys beside `class_path`; what is in the second is beside the arguments that a class has.
_INNER, _FREE = "init_args", "dict_kwargs"


@dataclass(frozen=True)
class Given:
    """A value, and the words of the user that gave it, for messages.

    Attributes:
        value: Plain data.
        origin: Such as `--data.train`, or `--config mine.yaml, data.train`.
        by_word: Whether it is an option of the command line, and in no file.
    """

    value: Any
    origin: str
    by_word: bool


@dataclass
class Picture:
    """The last value of everything that is given.

    Attributes:
        classes: The class path of `data` and `model`, where one is named and can be told.
        fields: Of each part, what is given for it, by dotted name inside the part.
        others: What is given beside the parts, such as `ckpt_path`.
    """

    classes: dict[str, str | None] = field(default_factory=dict)
    fields: dict[str, dict[str, Given]] = field(
        default_factory=lambda: {part: {} for part in PARTS}
    )
    others: dict[str, Given] = field(default_factory=dict)

    @classmethod
    def of(cls, words: Sequence[str]) -> Picture:
        """Read a command line.

        Raises:
            UsageError: A configuration or the file of a pattern is not there or is none, or a name
                is unknown.
        """
        picture = cls()
        for option, value in options(expand_words(words, DATA_SETS)):
            name = option.lstrip("-")
            if option in ("--config", "-c"):
                is_text = "{" in value or "\n" in value
                text = value if is_text else Path(value).read_text(encoding="utf-8")
                content = expand(parse_config(text, value), DATA_SETS)
                picture._add(content, f"--config {shipped_name(value)}, ")
            elif name in ("data", "model") and "{" not in value:
                picture._named(name, value)
            else:
                picture._set(name, Given(_plain(value), option, True))
        return picture

    def _add(self, content: Mapping[str, Any], where: str) -> None:
        for part, inner in content.items():
            if part not in PARTS or not isinstance(inner, Mapping):
                self._set(part, Given(inner, f"{where}{part}", False))
                continue
            if "class_path" in inner:
                self._named(part, str(inner["class_path"]))
            for key, value in inner.items():
                written = value if key == _INNER else {key: value}
                for name, item in (written or {}).items():
                    if name != "class_path":
                        self._set(f"{part}.{name}", Given(item, f"{where}{part}.{name}", False))

    def _named(self, part: str, path: str) -> None:
        if self.classes.get(part) != path:
            # The parser drops what another class does not take.
            self.fields[part].clear()
        self.classes[part] = path

    def _set(self, name: str, given: Given) -> None:
        part, _, rest = name.partition(".")
        first, _, inner = rest.partition(".")
        if part not in PARTS:
            self.others[name] = given
        elif not rest:
            # The whole part as text: what is in it is for the parser to say.
            self.fields[part].clear()
            self.classes[part] = None
            self.others[name] = given
        elif first == "class_path":
            self._named(part, str(given.value))
        elif first != _FREE:
            self.fields[part][inner if first == _INNER and inner else rest] = given


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of a command line, each with its value, empty where there is none."""
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        option, equals, value = word.partition("=")
        if option.startswith("--") or option == "-c":
            yield option, value if equals else "" if after.startswith("--") else after


def parse_config(content: str, path: Any) -> dict[str, Any]:
    """Return a configuration as plain data, interpolations unresolved.

    Args:
        content: The text of the file.
        path: Its path, for messages.

    Raises:
        UsageError: It is no YAML, or no mapping.
    """
    from omegaconf import OmegaConf

    try:
        config = OmegaConf.to_container(OmegaConf.create(content))
    except Exception as error:  # the YAML reader has exceptions of its own
        # The reader quotes the whole file where that is one long text.
        why = " ".join(str(error).split())
        raise UsageError(
            f"--config {path}: {why if len(why) < 300 else f'{why[:300]}...'}"
        ) from error
    if not isinstance(config, dict):
        raise UsageError(f"--config {path}: expected a mapping, got {content[:60]!r}")
    return {str(key): value for key, value in config.items()}


def _plain(value: str) -> Any:
    """Return the value of a word, as the parser would read it; text where that is no YAML."""
    if not value.startswith(("[", "{")):
        return None if value in ("null", "~", "") else value
    from omegaconf import OmegaConf

    try:
        return OmegaConf.to_container(OmegaConf.create(f"value: {value}"))["value"]
    except Exception:
        return value
