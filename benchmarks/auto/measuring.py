"""One call of the grid: every kernel that has a chance, timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

import sparse_patterns as sp
from benchmarks.auto.grid import GIVEN, PATTERNS, Cell
from benchmarks.contenders import DIRECTIONS, HEADS, Contender
from benchmarks.timing import Effort, interleave
from sparse_patterns.kernels.base import Request
from sparse_patterns.kernels.dispatch import Explanation

WRONG = 1.10
"""A choice is wrong where it takes this many times the time of the fastest kernel."""

HOPELESS = 4.0
"""A kernel declared to take this many times the time of the best is not timed."""


@dataclass(frozen=True)
class Outcome:
    """What is known of one call.

    Attributes:
        cell: The call.
        chosen: What auto takes.
        declared: Seconds by each kernel's own estimate.
        measured: Least seconds of each kernel that was timed; what else a machine does only adds.
        rounds: How often each was timed.
        left_out: Why a kernel was not timed.
    """

    cell: Cell
    chosen: str
    declared: dict[str, float]
    measured: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> str | None:
        """The fastest kernel, None where there was nothing to compare."""
        if self.chosen not in self.measured or len(self.measured) < 2:
            return None
        return min(self.measured, key=lambda name: self.measured[name])

    @property
    def loss(self) -> float | None:
        """Time of the choice over that of the fastest kernel."""
        best = self.best
        return None if best is None else self.measured[self.chosen] / self.measured[best]

    @property
    def wrong(self) -> bool:
        """Whether auto's choice is too slow."""
        return self.loss is not None and self.loss > WRONG


def explained(cell: Cell) -> Explanation:
    """Return what every kernel says of a call."""
    return sp.explain(
        PATTERNS[cell.pattern](cell.length),
        cell.length,
        heads=HEADS,
        head_dim=cell.head_dim,
        batch=cell.batch,
        dtype=cell.type,
        **GIVEN.get(cell.pattern, {}),
        needs_grad=cell.direction == DIRECTIONS[1],
    )


def request_of(cell: Cell) -> Request:
    """Return a call as kernels are asked about it."""
    return Request(
        pattern=PATTERNS[cell.pattern](cell.length),
        layer=0,
        layers=1,
        batch=cell.batch,
        heads=HEADS,
        kv_heads=HEADS,
        q_len=cell.length,
        kv_len=cell.length,
        q_offset=0,
        head_dim=cell.head_dim,
        dtype=cell.type,
        device="cpu",
        **GIVEN.get(cell.pattern, {}),
        needs_grad=cell.direction == DIRECTIONS[1],
    )


def contender(cell: Cell, kernel: str) -> Contender:
    """Return the call by one kernel.

    An eighth of the keys is padded, or the first token global, where that is given.
    """
    draw = torch.Generator().manual_seed(cell.length)
    shape = (3, cell.batch, HEADS, cell.length, cell.head_dim)
    inputs = torch.randn(shape, generator=draw).to(cell.type).unbind(0)
    told = GIVEN.get(cell.pattern, {})
    given: dict[str, Any] = {"dropout_p": told.get("dropout_p", 0.0)}
    if "softcap" in told:
        given["softcap"] = 30.0
    position = torch.arange(cell.length).expand(cell.batch, -1)
    if "key_mask" in told:
        given["key_mask"] = position < cell.length - cell.length // 8
    if "global_mask" in told:
        given["global_mask"] = position == 0
    pattern = PATTERNS[cell.pattern](cell.length)
    return Contender(partial(sp.attention, pattern=pattern, kernel=kernel, **given), inputs)


def measure(cell: Cell, effort: Effort, longest_s: float) -> Outcome:
    """Time the kernels of a call.

    Args:
        cell: The call.
        effort: How long.
        longest_s: A kernel whose own estimate is longer is not timed.
    """
    told = explained(cell)
    declared = {one.kernel: one.seconds for one in told.verdicts if one.seconds is not None}
    assert told.chosen is not None
    best = min(declared.values())
    calls, left_out = {}, {}
    for name, seconds in declared.items():
        if seconds > longest_s:
            left_out[name] = f"declared to take {seconds:.1f} s"
        elif seconds > HOPELESS * best:
            left_out[name] = f"declared to take {seconds / best:.0f} times the best's"
        else:
            calls[name] = contender(cell, name).run(cell.direction)
    if len(calls) < 2:
        return Outcome(cell, told.chosen, declared, left_out=left_out)
    return Outcome(cell, told.chosen, declared, *timed(calls, effort), left_out)


def timed(
    calls: Mapping[str, Callable[[], object]], effort: Effort
) -> tuple[dict[str, float], int]:
    """Return the least seconds of each call, and the number of rounds."""
    for call in calls.values():
        call()  # makes the plan, so that the number of rounds is that of what follows
    times = interleave(calls, effort)
    return {name: min(some) for name, some in times.items()}, len(next(iter(times.values())))
