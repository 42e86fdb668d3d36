"""Reads the imports of Python files off their source, without running them."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Import:
    """One imported name: `from a import b` is `a.b`, since `b` may be a module."""

    file: str
    line: int
    name: str
    deferred: bool

    def of(self, module: str) -> bool:
        return self.name == module or self.name.startswith(module + ".")


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def names_in(node: ast.AST, file: str) -> list[str]:
    """Absolute names that one statement or call imports; [] for any other node."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom(level=0):
            return [f"{node.module}.{alias.name}" for alias in node.names]
        case ast.ImportFrom():
            parts = [*Path(file).parts[: -node.level], *(node.module or "").split(".")]
            return [".".join([*filter(None, parts), alias.name]) for alias in node.names]
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[argument, *_]):
            constant = argument.value if isinstance(argument, ast.Constant) else None
            if called in ("import_module", "__import__") and isinstance(constant, str):
                return [constant]
    return []


@cache
def imports_of(source: str, file: str) -> tuple[Import, ...]:
    """Every import of a file; `deferred` ones do not run when the file is imported."""

    def walk(node: ast.AST, deferred: bool) -> Iterator[Import]:
        for name in names_in(node, file):
            yield Import(file, node.lineno, name, deferred)  # type: ignore[attr-defined]
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for field, value in ast.iter_fields(node):
            # A function's body waits for a call; its decorators and defaults do not.
            later = deferred or (inside and field == "body")
            if isinstance(node, ast.If) and is_type_checking(node.test):
                later = later or field == "body"
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child, later)

    return tuple(walk(ast.parse(source, file), False))


def read_sources(root: Path, *folders: str) -> dict[str, str]:
    """Return the text of every Python file below some folders of `root`, by its path there."""
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((root / folder).rglob("*.py"))
    }
