"""A training step of the demo's language model: forward, backward and Adam, float32, batch 1."""

from collections.abc import Iterator
from functools import partial

from benchmarks.baselines import Unavailable
from benchmarks.comparisons import peaks, timed, times_faster
from benchmarks.suites import Case, Options
from benchmarks.table import Goal, Row
from benchmarks.training import DIRECTION, STEPS

ATTENTIONS = {"torch-dense": "torch's own attention", "dense-kernel": "our dense kernel"}

# By length in tokens; at others the figure is printed without a goal.
SPEED_GOALS = {"torch-dense": {4096: Goal(">=", 1.6), 16384: Goal(">=", 4)}}
MEMORY_GOALS = {(4096, 16384): Goal("<=", 4.2)}


def against(name: str, options: Options) -> Iterator[Row]:
    """How many times faster the demo's model trains than the same model with dense attention."""
    case = f"lm-{name}"
    for length in options.lengths:
        try:
            other = STEPS[name](length)
        except Unavailable as error:
            yield Row(case, "not available", length, DIRECTION, note=str(error))
            continue
        yield timed(
            case,
            "times faster",
            length,
            DIRECTION,
            (STEPS["ours"](length), other),
            times_faster,
            SPEED_GOALS.get(name, {}).get(length),
            options,
        )


def length_memory(options: Options) -> Iterator[Row]:
    """Peak memory of a step above the model, by length and against dense attention's."""
    return peaks(
        "lm-memory",
        "benchmarks.training",
        DIRECTION,
        MEMORY_GOALS.get((options.lengths[0], options.lengths[-1])),
        options,
        baseline="torch-dense",
        owner="dense attention's",
    )


CASES = [
    *[
        Case(f"lm-{name}", f"times faster than with {attention}", partial(against, name))
        for name, attention in ATTENTIONS.items()
    ],
    Case("lm-memory", "peak memory by length, and against dense attention", length_memory),
]
