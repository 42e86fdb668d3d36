"""The whole encoder at base size against `transformers`' LongformerModel with the same weights."""

from collections.abc import Iterator
from functools import partial

from benchmarks import longformers, memory
from benchmarks.baselines import Unavailable, check_equal
from benchmarks.comparisons import memory_row, timed, times_faster
from benchmarks.longformers import LONGEST, TRAINING
from benchmarks.suites import Case, Options
from benchmarks.table import Goal, Row

# Set for this length; at others the figure is printed without one.
GOAL_LENGTH = 4096
SPEED_GOALS = {"forward": Goal(">=", 2), TRAINING: Goal(">=", 2.5)}
MEMORY_GOAL = Goal("<=", 0.55)


def against_huggingface(case: str, direction: str, options: Options) -> Iterator[Row]:
    """How many times faster our encoder is."""
    for length in options.lengths:
        try:
            other = longformers.huggingface(length)
        except Unavailable as error:
            yield Row(case, "not available", length, direction, note=str(error))
            continue
        ours = longformers.ours(length)
        check_equal(ours.forward(), other.forward())
        goal = SPEED_GOALS[direction] if length == GOAL_LENGTH else None
        calls = ours.run(direction), other.run(direction)
        yield timed(case, "times faster", length, direction, calls, times_faster, goal, options)


def training_memory(options: Options) -> Iterator[Row]:
    """Peak memory of a training step above the model and the text."""
    for length in options.lengths:
        if length > LONGEST:
            continue
        ours, other = (
            memory.peak_bytes(
                "benchmarks.longformers", side, length, TRAINING, threads=options.threads
            )
            for side in ("ours", "huggingface")
        )
        goal = MEMORY_GOAL if length == GOAL_LENGTH else None
        figure = "of transformers' memory"
        yield memory_row("encoder-memory", figure, length, TRAINING, ours, other, goal)


CASES = [
    *[
        Case(name, f"{direction}, times faster than transformers' LongformerModel", measure)
        for name, direction in (("encoder-forward", "forward"), ("encoder-training", TRAINING))
        for measure in [partial(against_huggingface, name, direction)]
    ],
    Case("encoder-memory", "peak memory of a training step, of transformers'", training_memory),
]
