"""Classes and functions read off their source: arguments and constants, without an import."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["Definition", "arguments_of", "constant_of", "find", "source_of", "value_of"]


@dataclass(frozen=True)
class Definition:
    """A class or function in its source.

    Attributes:
        module: The dotted name of the module that defines it.
        node: Its syntax tree.
    """

    module: str
    node: ast.ClassDef | ast.FunctionDef


@cache
def source_of(module: str) -> Path | None:
    """Return the file of a module that can be imported, without importing anything."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        origin = Path(spec.origin or "")
        return origin if origin.suffix == ".py" and origin.is_file() else None
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *rest)
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                return file
    return None


def find(path: str) -> Definition | None:
    """Return a class or function by its import path `package.module.Name`; None if it is not found.

    Names that a module imports from elsewhere are followed.
    """
    for _ in range(8):
        module, _, name = path.rpartition(".")
        tree = _tree(module)
        if tree is None:
            return None
        imported = None
        for node in _statements(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return Definition(module, node)
            imported = _imported(node, name, module) or imported
        if imported is None:
            return None
        path = imported
    return None


def arguments_of(definition: Definition) -> tuple[str, ...] | None:
    """Return the names of the arguments, None where they cannot be told.

    As in a registry of `sparse_patterns`: a class whose `__init__` takes `**kwargs` hands them on
    to its base, whose arguments follow its own.
    """
    if isinstance(definition.node, ast.FunctionDef):
        names, rest = _of_function(definition.node)
        return None if rest else tuple(names)
    found: dict[str, None] = {}
    for one in _lineage(definition):
        if one is None:
            return None
        node = one.node
        init = next((n for n in node.body if _is_function(n, "__init__")), None)
        if init is not None:
            names, rest = _of_function(init)
            found |= dict.fromkeys(names[1:])
            if not rest:
                return tuple(found)
        elif any(ast.unparse(d).split("(")[0].endswith("dataclass") for d in node.decorator_list):
            fields = (n.target for n in node.body if isinstance(n, ast.AnnAssign))
            return (
                tuple(f.id for f in fields if isinstance(f, ast.Name)) if not node.bases else None
            )
    return None


def constant_of(definition: Definition, name: str) -> Any:
    """Return a plain attribute of a class, its own or that of the nearest base; None if unknown."""
    for one in _lineage(definition):
        if one is None:
            return None
        value = _assigned(one.node.body, name)
        if value is not None:
            return value
    return None


def value_of(module: str, name: str) -> Any:
    """Return a plain value that a module assigns to a name; None if there is none."""
    tree = _tree(module)
    return None if tree is None else _assigned(tree.body, name)


@cache
def _tree(module: str) -> ast.Module | None:
    file = source_of(module)
    try:
        return None if file is None else ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None


def _lineage(definition: Definition) -> Iterator[Any]:
    """Yield a class and its bases, depth first; None where a base is not found."""
    yield definition
    node = definition.node
    assert isinstance(node, ast.ClassDef)
    for base in node.bases:
        if isinstance(base, ast.Subscript):
            base = base.value  # Generic[T]
        found = find(f"{definition.module}.{ast.unparse(base)}")
        if found is not None and isinstance(found.node, ast.ClassDef):
            yield from _lineage(found)
        elif ast.unparse(base) not in ("ABC", "Generic", "Protocol", "object"):
            yield None


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements of a module, those under `if` and `try` included."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if isinstance(node, ast.If | ast.Try):
            waiting = [*node.body, *node.orelse, *waiting]


def _imported(node: ast.stmt, name: str, module: str) -> str | None:
    """Return the import path of a name that a statement imports; None if it does not."""
    if not isinstance(node, ast.ImportFrom):
        return None
    package = node.module or ""
    if node.level:
        file = source_of(module)
        parts = module.split(".")
        if file is None or file.name != "__init__.py":
            parts = parts[:-1]
        parts = parts[: len(parts) - node.level + 1]
        package = ".".join([*parts, *([node.module] if node.module else [])])
    for alias in node.names:
        if (alias.asname or alias.name) == name:
            return f"{package}.{alias.name}"
    return None


def _of_function(node: ast.FunctionDef) -> tuple[list[str], bool]:
    """Return the names of the arguments, and whether any others are taken."""
    given = node.args
    names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return names, given.kwarg is not None


def _is_function(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == name


def _assigned(body: list[ast.stmt], name: str) -> Any:
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            try:
                return ast.literal_eval(node.value)  # type: ignore[attr-defined]
            except (ValueError, TypeError):
                return None
    return None
