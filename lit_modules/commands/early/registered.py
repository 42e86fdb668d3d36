"""The names of data sets and patterns, read off the source or, once imported, off the registry."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

from lit_modules.commands.early.source import Definition, arguments_of, find, source_of, value_of
from lit_modules.commands.errors import UsageError, did_you_mean

__all__ = ["DATA_SETS", "PATTERNS", "Names"]

_REGISTERED = re.compile(r'^@register\("([\w-]+)"\)\n(?:@.*\n)*(?:class|def) (\w+)', re.MULTILINE)


@dataclass(frozen=True)
class Names:
    """The names of one registry, and what they stand for.

    Attributes:
        kind: What the registered things are called in messages.
        module: The module with the registry.
        registry: What the registry is called there.
        package: The module, or the package of modules, whose source registers names.
        entry_points: The group through which other packages add names.
        others: Words that are understood in the place of a name.
    """

    kind: str
    module: str
    registry: str
    package: str
    entry_points: str
    others: tuple[str, str] | None = None

    @property
    def imported(self) -> Any:
        """The registry itself where it is imported already, with all that was added; else None."""
        return getattr(sys.modules.get(self.module), self.registry, None)

    @cached_property
    def _entries(self) -> tuple[metadata.EntryPoint, ...]:
        return tuple(metadata.entry_points(group=self.entry_points))

    @property
    def complete(self) -> bool:
        """Whether all names are known: a module of another package may register any."""
        return self.imported is not None or all(":" in entry.value for entry in self._entries)

    def paths(self) -> dict[str, str]:
        """Return the import path of what each name stands for."""
        registry = self.imported
        if registry is not None:
            return {name: registry.describe(name).path for name in registry.names()}
        found = {entry.name: entry.value.replace(":", ".") for entry in self._entries}
        file = source_of(self.package)
        assert file is not None
        whole = file.name == "__init__.py"
        for source in sorted(file.parent.rglob("*.py")) if whole else [file]:
            text = source.read_text(encoding="utf-8")
            if whole and not re.search(rf"^from {self.module} import .*\bregister\b", text, re.M):
                continue
            inner = source.relative_to(file.parent).with_suffix("").parts
            module = ".".join([self.package, *inner]) if whole else self.package
            found |= {name: f"{module}.{made}" for name, made in _REGISTERED.findall(text)}
        return dict(sorted(found.items()))

    def check(self, name: str) -> None:
        """Refuse a name that nothing is registered under.

        Raises:
            UsageError: There is no such name; the message is that of the registry.
        """
        known = self.paths()
        words = value_of(*self.others) if self.others else ()
        if self.complete and name not in known and name not in (words or ()):
            raise UsageError(
                f"unknown {self.kind} {name!r}.{did_you_mean(name, known)} "
                f"Known: {', '.join(known) or 'none'}"
            )

    def path_of(self, name: str) -> str:
        """Return the import path that a name stands for; an import path as it is.

        Raises:
            UsageError: There is no such name.
        """
        if "." in name:
            return str(self.imported.path_of(name)) if self.imported is not None else name
        self.check(name)
        return self.paths().get(name, name)

    def definition(self, name: str) -> Definition | None:
        """Return the source of what a name stands for, None where it cannot be found."""
        return find(self.paths().get(name, ""))

    def check_fields(self, name: str, fields: Any) -> None:
        """Refuse fields that what a name stands for does not take.

        Raises:
            UsageError: There is no such name or field; the message is that of the registry.
        """
        self.check(name)
        definition = self.definition(name)
        allowed = arguments_of(definition) if definition is not None else None
        for field in fields:
            if allowed is not None and field not in allowed:
                raise UsageError(
                    f"{self.kind} {name!r} has no field {field!r}.{did_you_mean(field, allowed)} "
                    f"Allowed: {', '.join(allowed) or 'none'}"
                )

    def summaries(self) -> dict[str, str] | None:
        """Return the first line of the docstring of each name; None where one cannot be read."""
        if not self.complete:
            return None
        if self.imported is not None:
            names = self.imported.names()
            return {name: self.imported.describe(name).summary for name in names}
        found = {}
        for name in self.paths():
            definition = self.definition(name)
            text = ast.get_docstring(definition.node) if definition is not None else None
            if not text:
                return None
            found[name] = text.partition("\n")[0].strip()
        return found


DATA_SETS = Names(
    "data set", "datamodules.registry", "registry", "datamodules", "sparse_patterns.datamodules"
)
PATTERNS = Names(
    "pattern",
    "sparse_patterns.spec.presets",
    "REGISTRY",
    "sparse_patterns.spec.presets",
    "sparse_patterns.patterns",
    ("sparse_patterns.config.reader", "_BARE"),
)
