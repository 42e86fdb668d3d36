"""The suites that `python -m benchmarks` knows, and what each has to provide.

A suite is a module with a list `CASES`. To add one, write the module and name it in `SUITES`. One
that not every machine can run has a function `missing` that says what it lacks, or returns None.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from benchmarks.table import Row
from benchmarks.timing import Effort

SUITES = {
    "core": "benchmarks.core",
    "grids": "benchmarks.grids",
    "scores": "benchmarks.scores",
    "first": "benchmarks.first.suite",
    "lm": "benchmarks.models.lm",
    "encoder": "benchmarks.models.encoder",
    "compiled": "benchmarks.models.compiled",
    "cuda": "benchmarks.cuda.suite",
}

DEFAULT = tuple(name for name in SUITES if name != "cuda")
"""The suites that run on any machine."""


@dataclass(frozen=True)
class Options:
    """What the command line sets for every case.

    Attributes:
        lengths: Sequence lengths in tokens, ascending.
        effort: How long to measure each comparison.
        threads: Number of threads for torch.
    """

    lengths: tuple[int, ...] = (4096, 16384)
    effort: Effort = field(default_factory=Effort)
    threads: int = 2


@dataclass(frozen=True)
class Case:
    """A named piece of a suite: `measure` yields its rows one by one, as they are known."""

    name: str
    what: str
    measure: Callable[[Options], Iterator[Row]]


def cases_of(suite: str) -> list[Case]:
    """The cases of a suite; its module is imported only now.

    Raises:
        ValueError: for an unknown suite, with the known ones.
    """
    if suite not in SUITES:
        raise ValueError(f"suite must be one of {', '.join(SUITES)}, got {suite!r}")
    return importlib.import_module(SUITES[suite]).CASES


def missing(suite: str) -> str | None:
    """What keeps a suite from running on this machine, in one line; None if nothing does."""
    told = getattr(importlib.import_module(SUITES[suite]), "missing", None)
    return told() if told else None


def select(cases: Iterable[Case], only: Iterable[str]) -> list[Case]:
    """The cases whose name contains one of `only`, or all when `only` is empty.

    Raises:
        ValueError: when a name of `only` fits no case, with the known names.
    """
    cases, only = list(cases), list(only)
    for part in only:
        if not any(part in case.name for case in cases):
            names = ", ".join(case.name for case in cases)
            raise ValueError(f"no case is named {part!r}; there are {names}")
    return [case for case in cases if not only or any(part in case.name for part in only)]
