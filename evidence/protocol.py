"""What a row of the evidence is: stated in the source before anything is run."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "runs"

Measure = Callable[[dict[str, Any], int, Path], dict[str, Any]]
"""Trains and tests one arm with one seed; the folder is for checkpoints, if any are kept."""


@dataclass(frozen=True)
class Metric:
    """A figure of a row that its table shows.

    Args:
        name: Key in what `measure` returns; the value is a number.
        label: Head of the column, with the unit.
        digits: Digits after the point.
        exact: Whether the figure is a function of arm and seed. A time or a memory is not, and is
            left out where two runs are compared bit for bit.
        compared: Whether arms are compared by it. A figure that the protocol sets, the same for
            all seeds, is not.
    """

    name: str
    label: str
    digits: int = 3
    exact: bool = True
    compared: bool = True


@dataclass(frozen=True)
class Curve:
    """A figure that is a curve, for the plot of a row; without one, the first metric is drawn.

    Args:
        name: Key in what `measure` returns; the value is a list of pairs `[x, y]`.
        x: Label of the first of each pair.
        y: Label of the second.
        log_x: Whether x has a logarithmic scale, of base 2.
        exact: As in `Metric`; a curve over time is not.
    """

    name: str
    x: str
    y: str
    log_x: bool = False
    exact: bool = True


@dataclass(frozen=True)
class Protocol:
    """A row: a question, how it is asked, and what an answer can and cannot show.

    Args:
        name: Lower-case words joined by hyphens; the module has underscores instead.
        question: What is asked, in one sentence.
        arms: What is special to each arm, as plain data.
        seeds: Every arm is measured with each of them.
        metrics: Figures of the table; the first one is the row's main figure.
        comparisons: Pairs `(arm, baseline)` that are compared seed by seed.
        setup: How it is measured: model, steps, data of evaluation.
        data: The text or task, and where it comes from.
        paper: What the paper reports for it, or that it reports nothing.
        shows: What the row can show.
        does_not_show: What it cannot show.
        common: What all arms share, as plain data; `measure` gets it joined with that of the arm.
        curve: What the plot draws.
        same: Figures of a run that must be equal in all arms of a seed, if any, such as the number
            of training tokens; the check of the page holds this.
    """

    name: str
    question: str
    arms: Mapping[str, dict[str, Any]]
    seeds: tuple[int, ...]
    metrics: tuple[Metric, ...]
    comparisons: tuple[tuple[str, str], ...]
    setup: str
    data: str
    paper: str
    shows: str
    does_not_show: str
    common: Mapping[str, Any] = field(default_factory=dict)
    curve: Curve | None = None
    same: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what a mistake in a module could break.

        Raises:
            ValueError: The name is malformed, an arm of a comparison is unknown, or a seed is
                there twice.
        """
        for name in (self.name, *self.arms):
            if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
                raise ValueError(f"name must be lower-case words joined by hyphens, got {name!r}")
        for pair in self.comparisons:
            for arm in pair:
                if arm not in self.arms:
                    known = ", ".join(self.arms)
                    raise ValueError(f"comparisons of {self.name}: arm must be of {known}: {arm!r}")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds of {self.name} must be different numbers, got {self.seeds}")
        if not self.metrics:
            raise ValueError(f"metrics of {self.name} must name at least one figure")

    def configuration(self, arm: str) -> dict[str, Any]:
        """Return the whole configuration of an arm, which is recorded with its figures."""
        return {**self.common, **self.arms[arm]}


@dataclass(frozen=True)
class Row:
    """A protocol, the function that measures it, and what came out.

    Args:
        protocol: Stated before anything is run.
        measure: Measures one arm with one seed.
        reading: What the figures say, in words, written once all of them are there; "" before.
    """

    protocol: Protocol
    measure: Measure
    reading: str = ""


def names() -> list[str]:
    """Return the names of all rows, sorted."""
    found = (path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    return sorted(name.replace("_", "-") for name in found)


def row(name: str) -> Row:
    """Return a row.

    Raises:
        ValueError: There is none of that name, or its module says another one.
    """
    if name not in names():
        raise ValueError(f"NAME must be one of {', '.join(names())}, got {name!r}")
    module = importlib.import_module(f"evidence.runs.{name.replace('-', '_')}")
    protocol: Protocol = module.PROTOCOL
    if protocol.name != name:
        raise ValueError(f"the protocol of {module.__name__} is named {protocol.name!r}")
    return Row(protocol, module.measure, getattr(module, "READING", ""))
