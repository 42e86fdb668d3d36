"""Where `kernel="auto"` chooses wrongly: its choice over the fastest kernel, on a grid of calls.

Each case is a pattern; its rows are lengths, batches, types and passes. Every kernel that can serve
a call is timed, except those that have no hope by their declared rates.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import sparse_patterns as sp
from benchmarks.contenders import DIRECTIONS, HEAD_DIM, Contender
from benchmarks.suites import Case, Options
from benchmarks.table import Goal, Row, milliseconds
from benchmarks.timing import interleave, medians

HEADS = 12
LENGTHS = (64, 256, 1024, 4096, 16384)
BATCHES = (1, 8)
LONGEST_BATCH = 1024  # tokens up to which more than one example is measured
TYPES = (torch.float32, torch.bfloat16)
GOAL = Goal("<=", 1.10)
HOPELESS = 10.0  # declared to take this many times the best's: not timed

PATTERNS: dict[str, Callable[[], sp.Pattern]] = {
    "auto-window": lambda: sp.Window(64, 64),
    "auto-wide-window": lambda: sp.Window(256, 256),
    "auto-causal-window": lambda: sp.Window(255, 0),
    "auto-dilated": lambda: sp.Window(64, 64, dilation=4),
    "auto-globals": lambda: sp.Window(64, 64) | sp.Global((0,)),
    "auto-full": lambda: sp.Full(),
    "auto-causal": lambda: sp.Causal(),
    "auto-bigbird": lambda: sp.get("bigbird"),
    "auto-strided": lambda: sp.get("sparse-transformer-strided"),
    "auto-fixed": lambda: sp.get("sparse-transformer-fixed"),
}


def contenders(
    pattern: sp.Pattern, inputs: tuple[Tensor, ...], direction: str
) -> tuple[str, dict[str, Contender]]:
    """Return auto's choice, and each kernel that is worth timing, by name."""
    batch, heads, length, head_dim = inputs[0].shape
    told = sp.explain(
        pattern,
        length,
        heads=heads,
        head_dim=head_dim,
        batch=batch,
        dtype=inputs[0].dtype,
        needs_grad=direction == DIRECTIONS[1],
    )
    declared = {one.kernel: one.seconds for one in told.verdicts if one.seconds is not None}
    best = min(declared.values())
    assert told.chosen is not None
    names = [name for name, seconds in declared.items() if seconds <= HOPELESS * best]
    return told.chosen, {
        name: Contender(partial(sp.attention, pattern=pattern, kernel=name), inputs)
        for name in names
    }


def grid(name: str, options: Options) -> Iterator[Row]:
    """Time of auto's choice over that of the fastest kernel, for one pattern."""
    pattern = PATTERNS[name]()
    for length in LENGTHS:
        if length > options.lengths[-1]:
            continue
        for batch in BATCHES if length <= LONGEST_BATCH else BATCHES[:1]:
            for dtype in TYPES:
                inputs = torch.randn(3, batch, HEADS, length, HEAD_DIM).to(dtype).unbind(0)
                for direction in DIRECTIONS:
                    yield compared(name, pattern, inputs, direction, options)


def compared(
    name: str,
    pattern: sp.Pattern,
    inputs: tuple[Tensor, ...],
    direction: str,
    options: Options,
) -> Row:
    """Return the row of one call; where auto chose wrongly, the note names the fastest kernel."""
    batch, _, length, _ = inputs[0].shape
    chosen, by_name = contenders(pattern, inputs, direction)
    calls = {kernel: one.run(direction) for kernel, one in by_name.items()}
    times = interleave(calls, options.effort)
    middle = medians(times)
    best = min(middle, key=lambda kernel: middle[kernel])
    measured = middle[chosen] / middle[best]
    kind = str(inputs[0].dtype).removeprefix("torch.")
    note = ""
    if not GOAL.met(measured):
        note = (
            f"{batch} x {length:,} tokens, {kind}, {direction}: auto takes {chosen}, "
            f"{best} is {measured:.2f}x as fast"
        )
    return Row(
        case=name,
        figure=f"{chosen} / best of {len(calls)}, {batch} x {kind}",
        length=length,
        direction=direction,
        measured=measured,
        goal=GOAL,
        ours=milliseconds(middle[chosen]),
        other=milliseconds(middle[best]),
        samples=times,
        note=note,
    )


CASES = [
    Case(name, "auto's choice over the fastest kernel", partial(grid, name)) for name in PATTERNS
]
