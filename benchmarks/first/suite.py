"""What a user meets first: short inputs, lengths that were not seen before, and the first call.

Kernels are chosen as a user's call chooses them (`kernel="auto"`).
"""

import random
import statistics
from collections.abc import Iterator
from functools import partial
from time import perf_counter

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import sparse_patterns as sp
from benchmarks.comparisons import timed
from benchmarks.contenders import DIRECTIONS, HEAD_DIM, Contender
from benchmarks.suites import Case, Options
from benchmarks.table import Goal, Row, milliseconds
from sparse_patterns.lowering import forms, plan
from sparse_patterns.lowering.tiles import lower
from sparse_patterns.lowering.tiles.known_masks import forget_masks

# Name: examples, heads, tokens, pattern, whether torch's attention is causal.
SHORT = {
    "short-128": (32, 12, 128, sp.Window(32, 32), False),
    "short-512": (8, 12, 512, sp.Window(32, 32), False),
    "short-causal-512": (4, 8, 512, sp.Window(127, 0), True),
}
SHORT_GOAL = Goal("<=", 1.15)

NEW_LENGTHS, SHORTEST, LONGEST = 200, 500, 4000
NEW_LENGTH_PATTERN = sp.Window(64, 64) | sp.Global((0,))
NEW_LENGTH_GOAL = Goal("<=", 1.15)

BIGBIRD_HEADS, BIGBIRD_LENGTH, PLAN_LENGTH = 12, 4096, 32768
FIRST_GOAL, PLAN_GOAL = Goal("<=", 3), Goal("<=", 0.15)
ROUNDS = 5


def drawn(batch: int, heads: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values, the same at every call."""
    q, k, v = torch.randn(
        3, batch, heads, length, HEAD_DIM, generator=torch.Generator().manual_seed(0)
    )
    return q, k, v


def short(name: str, options: Options) -> Iterator[Row]:
    """Time of a windowed call over that of torch's own attention on the same inputs."""
    batch, heads, length, pattern, causal = SHORT[name]
    inputs = drawn(batch, heads, length)
    mine = Contender(partial(sp.attention, pattern=pattern), inputs)
    other = Contender(partial(scaled_dot_product_attention, is_causal=causal), inputs)
    for direction in DIRECTIONS:
        yield timed(
            name,
            "time / torch's own attention",
            length,
            direction,
            (mine.run(direction), other.run(direction)),
            lambda ours, torchs: ours / torchs,
            SHORT_GOAL if direction == DIRECTIONS[1] else None,
            options,
        )


def forget() -> None:
    """Forget every plan, as a new process has none."""
    plan._plan.cache_clear()
    forms.forms_of.cache_clear()
    lower._interval_part.cache_clear()
    forget_masks()


def seconds(inputs: tuple[Tensor, ...], pattern: sp.Pattern) -> float:
    """Return the time of one forward call."""
    start = perf_counter()
    with torch.no_grad():
        sp.attention(*inputs, pattern)
    return perf_counter() - start


def compared(
    case: str, figure: str, length: int | None, first: list[float], again: list[float], goal: Goal
) -> Row:
    """Return a row of the median of first calls over that of calls after them."""
    middle = statistics.median(first), statistics.median(again)
    return Row(
        case=case,
        figure=figure,
        length=length,
        direction=DIRECTIONS[0],
        measured=middle[0] / middle[1],
        goal=goal,
        ours=milliseconds(middle[0]),
        other=milliseconds(middle[1]),
        samples={"ours": first, "other": again},
    )


def new_lengths(options: Options) -> Iterator[Row]:
    """Calls with lengths that were not seen before, over the same call again."""
    draw = random.Random(0)
    lengths = draw.sample(range(SHORTEST, LONGEST + 1), NEW_LENGTHS)
    seconds(drawn(1, BIGBIRD_HEADS, SHORTEST - 1), NEW_LENGTH_PATTERN)
    forget()
    first, again = [], []
    for length in lengths:
        inputs = drawn(1, BIGBIRD_HEADS, length)
        first.append(seconds(inputs, NEW_LENGTH_PATTERN))
        again.append(seconds(inputs, NEW_LENGTH_PATTERN))
    figure = "new length / the same again"
    yield compared("new-lengths", figure, None, first, again, NEW_LENGTH_GOAL)


def bigbird_first(options: Options) -> Iterator[Row]:
    """The first call of BigBird over the next."""
    inputs, pattern = drawn(1, BIGBIRD_HEADS, BIGBIRD_LENGTH), sp.get("bigbird")
    first, again = [], []
    for _ in range(ROUNDS):
        forget()
        first.append(seconds(inputs, pattern))
        again.append(seconds(inputs, pattern))
    figure = "first call / the next"
    yield compared("bigbird-first", figure, BIGBIRD_LENGTH, first, again, FIRST_GOAL)


def bigbird_plan(options: Options) -> Iterator[Row]:
    """Seconds to plan BigBird for a long sequence."""
    times = []
    for _ in range(ROUNDS):
        forget()
        start = perf_counter()
        made = sp.plan(sp.get("bigbird"), PLAN_LENGTH, heads=BIGBIRD_HEADS)
        _ = made.computed
        times.append(perf_counter() - start)
    middle = statistics.median(times)
    yield Row(
        case="bigbird-plan",
        figure="seconds of the plan",
        length=PLAN_LENGTH,
        direction="plan",
        measured=middle,
        goal=PLAN_GOAL,
        ours=milliseconds(middle),
        samples={"ours": times},
    )


CASES = [
    *[
        Case(name, "a short windowed call over torch's own attention", partial(short, name))
        for name in SHORT
    ],
    Case("new-lengths", "lengths not seen before, over the same again", new_lengths),
    Case("bigbird-first", "the first call over the next", bigbird_first),
    Case("bigbird-plan", "seconds to plan a long sequence", bigbird_plan),
]
