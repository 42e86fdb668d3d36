"""Reads the rooms of a package, and which room uses which, off the source.

A room is an entry of the package's own folder: a folder, or a file. Nothing is imported: the files
are parsed, and every `import` counts, wherever it stands.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("sparse_patterns", "datamodules", "lit_modules")


@dataclass(frozen=True)
class Room:
    """One entry of a package's folder.

    `says` is the first sentence of its docstring; `parts` are its folders, and its files that hold
    a kernel; `uses` are names of other rooms (`package.room`), or of a package where its
    `__init__` is used; `classes` maps each of its classes to the names of those it derives from.
    """

    name: str
    says: str
    is_folder: bool
    parts: tuple[str, ...]
    uses: frozenset[str] = frozenset()
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read(root: Path) -> dict[str, Room]:
    """The rooms of all packages under `root`, by `package.room`, sorted."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).iterdir()):
            files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
            if files and path.suffix in ("", ".py") and path.name != "__init__.py":
                name = f"{package}.{path.stem}"
                found[name] = _room(root, name, path, files)
    return found


def derived(rooms: dict[str, Room], base: str) -> set[str]:
    """Names of the rooms that define a class derived from `base`, directly or not."""
    names, grown = {base}, True
    while grown:
        more = {
            name
            for room in rooms.values()
            for name, bases in room.classes.items()
            if names & set(bases)
        }
        grown = not more <= names
        names |= more
    return {
        room.name
        for room in rooms.values()
        if any(names & set(bases) for bases in room.classes.values())
    }


def _room(root: Path, name: str, path: Path, files: list[Path]) -> Room:
    uses: set[str] = set()
    classes: dict[str, tuple[str, ...]] = {}
    parts = {part.name for part in path.glob("*/") if list(part.glob("*.py"))}
    says = ""
    for file in files:
        tree = ast.parse(file.read_text("utf-8"), str(file))
        if file == path or file == path / "__init__.py":
            says = _first_sentence(ast.get_docstring(tree) or "")
        for module in _imported(tree, file.relative_to(root)):
            package, *rest = module.split(".")
            if package in PACKAGES:
                uses.add(_used(root, package, rest[0] if rest else ""))
        own = dict(_classes(tree))
        classes |= own
        if file.parent == path and any("Kernel" in bases for bases in own.values()):
            parts.add(file.stem)
    uses -= {name, name.split(".")[0]}
    return Room(name, says, path.is_dir(), tuple(sorted(parts)), frozenset(uses), classes)


def _used(root: Path, package: str, name: str) -> str:
    """The room that an import leads to: one of the package, or the package as a whole."""
    folder = root / package
    is_room = (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
    return f"{package}.{name}" if is_room else package


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0].rstrip(".")


def _imported(tree: ast.AST, file: Path) -> Iterator[str]:
    """Absolute names of what a file imports; `from a import b` is `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = list(file.parts[: -node.level]) if node.level else []
            module = ".".join([*inside, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _classes(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each class with the last names of its bases: `base.Kernel[int]` is `Kernel`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = (ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases)
            yield node.name, tuple(bases)
