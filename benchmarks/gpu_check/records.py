"""What a check found: one record a line, printed as it is known, and all of them at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RIGHT, WRONG, FAILED, MISSING, LATE, TOLD = "right", "WRONG", "FAILED", "missing", "late", "told"
"""States: the number is right, or wrong; the code raised; a library is not there; out of time; a
figure that is neither right nor wrong."""

BAD = (WRONG, FAILED)
"""States after which the command ends with status 1."""


@dataclass(frozen=True)
class Record:
    """One line.

    Attributes:
        part: Name of the part of the check.
        name: What was looked at.
        state: One of the states above.
        figure: What was found, in words.
        numbers: The same as numbers, in seconds, bytes, operations per second or as named.
    """

    part: str
    name: str
    state: str
    figure: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.part:<9} {self.state:<8} {self.name}: {self.figure}"


Emit = Callable[[Record], None]


@dataclass(frozen=True)
class Item:
    """A piece of a part, which starts only while the part has time.

    Attributes:
        name: Its name, of which a part has only one.
        run: Yields records as they are known.
    """

    name: str
    run: Callable[[], Iterator[Record]]


def summary(records: Iterable[Record]) -> str:
    """The last lines: how much of each part is in which state, and everything that is not right."""
    records = list(records)
    states = (RIGHT, WRONG, FAILED, MISSING, LATE, TOLD)
    parts = list(dict.fromkeys(record.part for record in records))
    lines = ["| part | " + " | ".join(states) + " |", "| --- " * (1 + len(states)) + "|"]
    for part in parts:
        of_part = [record.state for record in records if record.part == part]
        counts = " | ".join(str(of_part.count(state)) for state in states)
        lines.append(f"| {part} | {counts} |")
    told = [str(record) for record in records if record.state in (WRONG, FAILED, MISSING, LATE)]
    return "\n".join([*lines, *told])


def save(path: Path, records: Iterable[Record], **more: Any) -> None:
    """Write everything as JSON, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**more, "records": [asdict(record) for record in records]}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
