"""A registry of described records: things built by name, from this project and from others.

One class serves every kind of named thing (patterns, data sets). A record keeps what a user needs
to choose: the name, the first line of the docstring, the fields with type and default, and the
place of the definition. Pure Python: importing this file imports nothing heavy.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import re
import textwrap
import threading
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any, Generic, TypeVar

__all__ = ["REQUIRED", "Field", "Record", "Registry", "did_you_mean"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class _Required:
    """The default of a field that has none."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest allowed words, or the empty string.

    Case is ignored, and so is the difference between a hyphen and an underscore.
    """
    plain = {name.lower().replace("_", "-"): name for name in allowed}
    close = difflib.get_close_matches(word.lower().replace("_", "-"), plain, n=3, cutoff=0.65)
    return f" Did you mean {' or '.join(repr(plain[name]) for name in close)}?" if close else ""


@dataclass(frozen=True)
class Field:
    """One argument of a registered factory.

    Attributes:
        name: The keyword.
        type: The annotation as text, empty if there is none.
        default: The default value, or `REQUIRED`.
    """

    name: str
    type: str
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        """Whether the field has no default."""
        return self.default is REQUIRED

    def __str__(self) -> str:
        """Return ``name: type = default``."""
        typed = f"{self.name}: {self.type}" if self.type else self.name
        return f"{typed} (required)" if self.required else f"{typed} = {self.default!r}"


@dataclass(frozen=True)
class Record:
    """What is known about one registered name; `print(record)` is meant for people.

    Attributes:
        kind: What sort of thing it is, such as "pattern".
        name: The registered name.
        factory: The function or class that builds it.
    """

    kind: str
    name: str
    factory: Callable[..., Any]

    @cached_property
    def doc(self) -> str:
        """The whole docstring of the factory, without its indentation."""
        return inspect.getdoc(self.factory) or ""

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0].strip()

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The keyword arguments of the factory, in the order of its signature."""
        return tuple(
            Field(
                p.name,
                "" if p.annotation is p.empty else _annotation_text(p.annotation),
                REQUIRED if p.default is p.empty else p.default,
            )
            for p in _parameters(self.factory)
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        )

    @cached_property
    def takes_any_field(self) -> bool:
        """Whether the factory takes ``**kwargs``, so that every field is allowed."""
        return any(p.kind is p.VAR_KEYWORD for p in _parameters(self.factory))

    @property
    def path(self) -> str:
        """The import path of the factory, ``package.module.Name``."""
        return f"{self.factory.__module__}.{self.factory.__qualname__}"

    @cached_property
    def defined_in(self) -> str:
        """The import path, with file and line where the source is available."""
        try:
            file = inspect.getsourcefile(self.factory)
            line = inspect.getsourcelines(self.factory)[1]
        except (OSError, TypeError):
            return self.path
        return f"{self.path} ({file}:{line})"

    def __str__(self) -> str:
        """Return the description that is printed for people, several lines long."""
        lines = [f"{self.kind} {self.name}", "", textwrap.indent(self.doc, "  ")]
        if self.fields:
            lines += ["", "fields:", *(f"  {field}" for field in self.fields)]
        return "\n".join([*lines, "", f"defined in {self.defined_in}"])


class Registry(Generic[T]):
    """Factories by name.

    Args:
        kind: What the registered things are called in messages, such as "pattern".
        entry_points: The entry-point group through which other packages add names. An entry point
            is either a module whose import registers names, or a factory, which is then registered
            under the name of the entry point. They are loaded at the first look-up, not before.
    """

    def __init__(self, kind: str, entry_points: str) -> None:
        self.kind = kind
        self.entry_points = entry_points
        self._records: dict[str, Record] = {}
        self._complete = False
        self._lock = threading.RLock()

    def register(self, name: str) -> Callable[[F], F]:
        """Decorate a factory function or class to make it available as `name`.

        Args:
            name: Lower-case words joined by hyphens, such as "sparse-transformer".

        Raises:
            ValueError: If the name is malformed or taken by another factory, or if the factory has
                no docstring (its first line is the description) or positional-only arguments.
        """
        if not isinstance(name, str):
            raise TypeError(f"{self.kind} name must be a string, got {name!r}")
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{self.kind} name must be lower-case words joined by hyphens, "
                f"such as 'my-{self.kind.replace(' ', '-')}', got {name!r}"
            )

        def add(factory: F) -> F:
            if not callable(factory):
                raise TypeError(
                    f"{self.kind} {name!r} must be a function or class, got {factory!r}"
                )
            record = Record(self.kind, name, factory)
            if not record.summary:
                raise ValueError(
                    f"{self.kind} {name!r} needs a docstring: its first line is the description"
                )
            for parameter in _parameters(factory):
                if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                    raise ValueError(
                        f"{self.kind} {name!r}: fields are given by name, "
                        f"but {parameter.name!r} is positional-only"
                    )
            with self._lock:
                old = self._records.get(name)
                if old is not None and not _same_definition(old.factory, factory):
                    raise ValueError(
                        f"{self.kind} name {name!r} is already taken by {old.defined_in}; "
                        f"choose another name for {record.path}"
                    )
                self._records[name] = record
            return factory

        return add

    def names(self) -> tuple[str, ...]:
        """Return all registered names, sorted."""
        self._load()
        return tuple(sorted(self._records))

    def describe(self, name: str) -> Record:
        """Return the record of a name.

        Raises:
            TypeError: If `name` is no string.
            ValueError: If there is no such name; the message lists all and suggests near ones.
        """
        if not isinstance(name, str):
            raise TypeError(f"{self.kind} name must be a string, got {name!r}")
        self._load()
        if name not in self._records:
            names = sorted(self._records)
            raise ValueError(
                f"unknown {self.kind} {name!r}.{did_you_mean(name, names)} "
                f"Known: {', '.join(names) or 'none'}"
            )
        return self._records[name]

    def path_of(self, name: str) -> str:
        """Return the import path of the factory that a name or an import path stands for.

        A saved import path is followed to where the factory is now: if its module is gone, the
        registered factory of the same name in the same top-level package is meant.

        Args:
            name: A registered name, or an import path ``package.module.Name``, which need not be
                that of a registered factory.

        Raises:
            ValueError: A name without a dot is not registered.
        """
        if "." not in name:
            return self.describe(name).path
        module, _, last = name.rpartition(".")
        if _is_module(module):
            return name
        self._load()
        package = name.partition(".")[0]
        paths = {record.path for record in self._records.values()}
        same = [path for path in paths if path.split(".")[0] == package]
        moved = [path for path in same if path.rpartition(".")[2] == last]
        return moved[0] if len(moved) == 1 else name

    def get(self, name: str, /, **fields: Any) -> T:
        """Build what `name` stands for.

        Args:
            name: A registered name.
            **fields: The arguments of its factory.

        Raises:
            ValueError: If the name or a field is unknown, or a required field is missing. Errors of
                the factory itself pass through.
        """
        record = self.describe(name)
        allowed = {field.name: field for field in record.fields}
        for given in fields:
            if given not in allowed and not record.takes_any_field:
                raise ValueError(
                    f"{self.kind} {name!r} has no field {given!r}.{did_you_mean(given, allowed)} "
                    f"Allowed: {', '.join(allowed) or 'none'}"
                )
        missing = [f.name for f in record.fields if f.required and f.name not in fields]
        if missing:
            raise ValueError(
                f"{self.kind} {name!r} needs {', '.join(map(repr, missing))}; "
                f"its fields are: {'; '.join(map(str, record.fields))}"
            )
        built: T = record.factory(**fields)
        return built

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Forget on exit what is registered inside, as tests of a registration want it."""
        self._load()
        before = dict(self._records)
        try:
            yield
        finally:
            with self._lock:
                self._records = before

    def __contains__(self, name: object) -> bool:
        """Whether `name` is registered."""
        self._load()
        return name in self._records

    def _load(self) -> None:
        """Load the entry points of other packages, once."""
        broken = []
        with self._lock:
            if self._complete:
                return
            # Set before the entry points run: one of them may itself look a name up.
            self._complete = True
            for entry in metadata.entry_points(group=self.entry_points):
                try:
                    self._load_entry_point(entry)
                except Exception as error:
                    package = entry.dist.name if entry.dist else "an unknown package"
                    broken.append(
                        f"{self.kind} {entry.name!r} of package {package!r} is left out: its entry "
                        f"point {entry.value!r} failed with {type(error).__name__}: {error}"
                    )
        # Last, so that a filter which turns warnings into errors still leaves the others loaded.
        for message in broken:
            warnings.warn(message, RuntimeWarning, stacklevel=3)

    def _load_entry_point(self, entry: metadata.EntryPoint) -> None:
        loaded: object = entry.load()
        if isinstance(loaded, types.ModuleType):
            return
        if not callable(loaded):
            raise TypeError(f"expected a module, function or class, got {type(loaded).__name__}")
        self.register(entry.name)(loaded)


def _same_definition(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Whether `new` is `old`, or what a reload of its module made of it.

    Functions made inside another function share one qualified name, so they count by identity.
    """
    if old is new:
        return True
    path = (new.__module__, new.__qualname__)
    return path == (old.__module__, old.__qualname__) and "<" not in new.__qualname__


def _parameters(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a factory.

    A class whose ``__init__`` takes ``**kwargs`` hands them on to its base, by convention: those of
    the base follow its own.
    """
    if not inspect.isclass(factory):
        return list(inspect.signature(factory).parameters.values())
    found: dict[str, inspect.Parameter] = {}
    own = [base for base in factory.__mro__ if "__init__" in vars(base)]
    if own[0] is object:  # a class that is made in another way, such as a NamedTuple
        return list(inspect.signature(factory).parameters.values())
    for base in own:
        if base is object:
            break
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        rest = [p for p in parameters if p.kind is p.VAR_KEYWORD]
        for parameter in parameters:
            if parameter not in rest:
                found.setdefault(parameter.name, parameter)
        if not rest:
            return list(found.values())
    return [*found.values(), *rest]


def _annotation_text(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    return inspect.formatannotation(annotation)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
