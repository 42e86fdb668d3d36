"""Draws the architecture page anew from the imports of the source: `make architecture`.

Writes docs/architecture-patterns.svg, docs/architecture-training.svg, and the tables of rooms in
docs/architecture.md, between their marks. tests/contracts/test_architecture.py compares them.
"""

from __future__ import annotations

import re
from pathlib import Path

from drawing import Box, draw, without_circles, without_detours
from rooms import PACKAGES, Room, derived, read

ROOT = Path(__file__).parents[2]
COLOUR = {"sparse_patterns": "#dbe9f6", "datamodules": "#e2f0d9", "lit_modules": "#fce8d2"}
OUTSIDE = "#eeeeee"


def patterns(rooms: dict[str, Room]) -> str:
    """Drawing of `sparse_patterns`: from spec to plan to kernel, and what rests on that."""
    own = {name: room for name, room in rooms.items() if name.startswith("sparse_patterns.")}
    edges = {(used, name) for name, room in own.items() for used in room.uses if used in own}
    boxes = {
        name: Box.of(name.split(".")[1], room.parts, COLOUR["sparse_patterns"])
        for name, room in own.items()
    }
    boxes, edges = without_circles(boxes, edges)
    return draw(boxes, without_detours(edges))


def training(rooms: dict[str, Room]) -> str:
    """Drawing of `datamodules` and `lit_modules`: from file to batch to loss."""
    found = derived(rooms, "LightningModule")
    models = {
        name for name in found if (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()
    }
    found = derived(rooms, "LightningDataModule")
    data = {name for name in found if "datamodules.registry" in rooms[name].uses}

    def box(name: str) -> str:
        """The box of a room: models share one, and so do all rooms of `sparse_patterns` but one."""
        if name in models:
            return "models"
        package = name.split(".")[0]
        if package == "sparse_patterns" and name != "sparse_patterns.registry":
            return package
        return name

    boxes = {
        "Trainer": Box.of("Trainer", ["of Lightning"], OUTSIDE),
        "models": Box.of("models", sorted(n.split(".")[1] for n in models), COLOUR["lit_modules"]),
    }
    edges = set()
    for name, room in rooms.items():
        package, short = name.split(".")
        here = box(name)
        if here not in boxes:
            title = here if package == "sparse_patterns" else short
            parts = () if package == "sparse_patterns" else room.parts
            boxes[here] = Box.of(title, parts, COLOUR[package])
        edges |= {(box(used), here) for used in room.uses if box(used) != here}
    for start, _ in edges:
        boxes.setdefault(start, Box.of(start, [], COLOUR[start.split(".")[0]]))
    # At run time the Trainer carries batches from one to the other: no import says so.
    run = {(name, "Trainer") for name in data} | {("Trainer", "models")}
    boxes, edges = without_circles(boxes, edges)
    run = {(start, end) for start, end in run if start in boxes}
    return draw(boxes, without_detours(edges) | run, dashed=run)


def table(rooms: dict[str, Room], package: str) -> str:
    """Table of a package's rooms: what each is, and which rooms it uses."""
    rows = ["| room | what is there | uses |", "|---|---|---|"]
    for name, room in rooms.items():
        if name.startswith(package + "."):
            uses = sorted({_short(used, package) for used in room.uses})
            says = room.says.replace("|", "\\|")
            rows.append(f"| `{_short(name, package)}` | {says} | {', '.join(uses)} |")
    return "\n".join(rows)


def page(text: str, rooms: dict[str, Room]) -> str:
    """The page with its tables made anew."""
    for package in PACKAGES:
        mark = re.compile(f"(<!-- rooms of {package} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        text, count = mark.subn(lambda m, p=package: m[1] + table(rooms, p) + m[2], text)
        if count != 1:
            raise ValueError(f"the page must mark one table of {package}, found {count}")
    return text


def written(root: Path = ROOT) -> dict[Path, str]:
    """Each file that this script writes, with the text that belongs there."""
    rooms = read(root)
    docs = root / "docs"
    return {
        docs / "architecture-patterns.svg": patterns(rooms),
        docs / "architecture-training.svg": training(rooms),
        docs / "architecture.md": page((docs / "architecture.md").read_text("utf-8"), rooms),
    }


def _short(name: str, package: str) -> str:
    """A room's name as its own package calls it; an outer package alone where no room is named."""
    outer, _, room = name.partition(".")
    if outer == package:
        return room
    return f"{outer}.{room}" if room in ("registry",) else outer


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, "utf-8")
