"""Rules of the layout, as functions of a folder or of sources: each returns what breaks it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from types import ModuleType

from tests.contracts.imports import Import, imports_of


def entries(folder: Path) -> list[str]:
    """Return what a listing of a folder shows; hidden and compiled files are left out."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name != "__pycache__" and not path.name.startswith(".")
    )


def crowded(sources: Iterable[str], most: int) -> list[str]:
    """Return the folders that hold more than `most` Python files."""
    counts: dict[str, int] = {}
    for file in sources:
        folder = str(PurePosixPath(file).parent)
        counts[folder] = counts.get(folder, 0) + 1
    return [f"{folder}: {n} Python files" for folder, n in sorted(counts.items()) if n > most]


def module_of(file: str) -> str:
    """Return the dotted name of a file; a package's `__init__.py` has the name of the package."""
    return file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def target_file(name: str, files: Mapping[str, str]) -> str | None:
    """Return the file that an imported name comes from, None if it is none of ours.

    Args:
        name: Dotted; the last parts may be a class or function.
        files: The file of each module, by dotted name.
    """
    while name:
        if name in files:
            return files[name]
        name = name.rpartition(".")[0]
    return None


def links(sources: Mapping[str, str], beside: Iterable[str] = ()) -> dict[tuple[str, str], Import]:
    """Return who imports whom: one import for each (importing file, imported file).

    Imports inside functions and for type checkers alone count, too: a circle through one of them
    is a circle of ideas, even where Python could run it.

    Args:
        sources: The text of each file, by path.
        beside: Modules that may be imported inside functions, wherever they themselves rest.
    """
    files = {module_of(file): file for file in sources}
    found: dict[tuple[str, str], Import] = {}
    for file, source in sources.items():
        for item in imports_of(source, file):
            target = target_file(item.name, files)
            if target is None or target == file:
                continue
            if item.deferred and any(item.of(module) for module in beside):
                continue
            found.setdefault((file, target), item)
    return found


def circles(graph: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the groups of nodes that all reach each other, by Tarjan's algorithm."""
    after: dict[str, list[str]] = {}
    for start, end in graph:
        after.setdefault(start, []).append(end)
        after.setdefault(end, [])
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in after[node]:
            if other not in number:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], number[other])
        if lowest[node] == number[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(after):
        if node not in number:
            visit(node)
    return found


def siblings(importer: str, imported: str) -> tuple[str, str]:
    """Return the two entries of one folder through which a file imports another.

    `a/b/c.py` that imports `a/d/e.py` makes the entry `a/b` rest on the entry `a/d`.
    """
    one, two = importer.split("/"), imported.split("/")
    same = next(n for n, (x, y) in enumerate(zip(one, two, strict=False)) if x != y)
    return "/".join(one[: same + 1]), "/".join(two[: same + 1])


def file_circles(sources: Mapping[str, str], beside: Iterable[str] = ()) -> list[str]:
    """Return the groups of files that import each other in a circle."""
    return [", ".join(group) for group in circles(links(sources, beside))]


def room_circles(sources: Mapping[str, str], beside: Iterable[str] = ()) -> list[str]:
    """Return the groups of entries of a folder (files or folders) that rest on each other.

    Each is given with the imports that make it: one circle need not be one between files.
    """
    arrows: dict[tuple[str, str], Import] = {}
    for (importer, imported), item in links(sources, beside).items():
        arrows.setdefault(siblings(importer, imported), item)
    found = []
    for group in circles(arrows):
        how = [
            f"{item.file}:{item.line} imports {item.name}"
            for (start, end), item in arrows.items()
            if start in group and end in group
        ]
        found.append(f"{', '.join(group)}: {'; '.join(how)}")
    return found


def against_direction(
    sources: Mapping[str, str],
    package: str,
    below: Mapping[str, Iterable[str]],
    beside: Iterable[str] = (),
) -> list[str]:
    """Return the imports of a package's rooms that the table of directions does not have.

    Args:
        sources: The text of each file, by path.
        package: Its `__init__.py` may import everything.
        below: What each room may import, by name: folders and files of the package.
        beside: Rooms that may be imported inside functions from everywhere.
    """
    found = []
    modules = [f"{package}.{room}" for room in beside]
    for (importer, imported), item in links(sources, modules).items():
        if not importer.startswith(f"{package}/") or not imported.startswith(f"{package}/"):
            continue
        room, other = (file.split("/")[1].removesuffix(".py") for file in (importer, imported))
        if room in (other, "__init__"):
            continue
        if room not in below:
            found.append(f"{importer}: {room} is no room of the table")
        elif other not in below[room]:
            allowed = ", ".join(below[room]) or "nothing"
            found.append(
                f"{importer}:{item.line} imports {item.name}: {room} may import {allowed} only"
            )
    return found


def importers(sources: Mapping[str, str], module: str, allowed: Iterable[str]) -> list[str]:
    """Return the imports of a module at the top of files that are not allowed to have one.

    Args:
        sources: The text of each file, by path.
        module: Dotted; what is below it counts, too, but not for files of its own.
        allowed: Beginnings of paths that may import it.
    """
    own = module.replace(".", "/") + "/"
    return [
        f"{file}:{item.line} imports {item.name}"
        for file, source in sources.items()
        if not file.startswith((own, *allowed))
        for item in imports_of(source, file)
        if item.of(module) and not item.deferred
    ]


def hidden_modules(modules: Mapping[str, ModuleType], packages: Iterable[str]) -> list[str]:
    """Return the imported modules that something else of the same name hides in their package.

    After `import a.b as m`, `m` is what the attribute `b` of `a` is: a function, if one hides it.

    Args:
        modules: By dotted name, such as `sys.modules`.
        packages: Only what is below these is looked at.
    """
    found = []
    for name, module in sorted(modules.items()):
        parent, _, last = name.rpartition(".")
        if parent not in modules or name.split(".")[0] not in packages:
            continue
        seen = getattr(modules[parent], last, None)
        if seen is not module:
            found.append(f"{name} is hidden by {type(seen).__name__} {parent}.{last}")
    return found


def import_all(*packages: str) -> dict[str, ModuleType]:
    """Import every module of some packages, except programs, and return `sys.modules`."""
    import importlib
    import pkgutil

    for package in packages:
        root = importlib.import_module(package)
        for info in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not info.name.endswith(".__main__"):
                importlib.import_module(info.name)
    return dict(sys.modules)
