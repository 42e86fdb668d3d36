"""One measured figure beside its goal, and how figures are printed and saved."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = ("case", "length", "pass", "figure", "measured", "goal", "met", "ours", "other", "rounds")
WIDTHS = (26, 7, 16, 30, 8, 8, 3, 10, 10, 6)


@dataclass(frozen=True)
class Goal:
    """A bound that a figure is to keep: `Goal(">=", 0.6)`."""

    relation: str
    bound: float

    def __post_init__(self) -> None:
        """Refuses a relation that is no bound."""
        if self.relation not in (">=", "<="):
            raise ValueError(f"relation must be '>=' or '<=', got {self.relation!r}")

    def met(self, measured: float) -> bool:
        """True when the figure keeps the bound."""
        return measured >= self.bound if self.relation == ">=" else measured <= self.bound

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        case: Which case measured it.
        figure: What the number is, in words.
        length: Sequence length in tokens, or None where several are compared.
        direction: What one call does: "forward", "forward+backward" or "training step".
        measured: The number, or None where it could not be had; `note` then says why.
        goal: The bound it is to keep, or None.
        ours: The middle cost of our side, with its unit ("61.2 ms").
        other: The same for what it is compared with.
        samples: Every single measurement behind the two, in seconds or bytes.
        note: What a reader has to know beside the number.
    """

    case: str
    figure: str
    length: int | None = None
    direction: str = "forward"
    measured: float | None = None
    goal: Goal | None = None
    ours: str = ""
    other: str = ""
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or a figure."""
        if self.goal is None or self.measured is None:
            return None
        return self.goal.met(self.measured)

    def cells(self) -> tuple[str, ...]:
        """The row as text, one cell a column."""
        met = {None: "", True: "yes", False: "no"}[self.met]
        return (
            self.case,
            f"{self.length:,}" if self.length is not None else "",
            self.direction,
            self.figure,
            f"{self.measured:.2f}" if self.measured is not None else "n/a",
            str(self.goal or ""),
            met,
            self.ours,
            self.other,
            str(max(map(len, self.samples.values()), default="")),
        )


def line(cells: Iterable[str]) -> str:
    """One line of a Markdown table, in columns that also line up in a terminal."""
    return "| " + " | ".join(f"{c:<{w}}" for c, w in zip(cells, WIDTHS, strict=True)) + " |"


def header() -> str:
    """The first two lines of the table."""
    return line(COLUMNS) + "\n" + line("-" * width for width in WIDTHS)


def milliseconds(seconds: float) -> str:
    """Formats a duration for a cell."""
    return f"{seconds * 1e3:,.1f} ms"


def mebibytes(size: float) -> str:
    """Formats a size in bytes for a cell."""
    return f"{size / 2**20:,.1f} MiB"


def save(path: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Writes the rows and what is known of the machine as JSON, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = [{**asdict(row), "met": row.met} for row in rows]
    path.write_text(json.dumps({"about": about, "rows": saved}, indent=1) + "\n", encoding="utf-8")
