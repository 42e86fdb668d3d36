"""The attention core alone: a window of 256 + 256 keys, 12 heads of size 64, float32, batch 1."""

from collections.abc import Iterator
from functools import partial

import sparse_patterns as sp
from benchmarks import machine
from benchmarks.baselines import BASELINES, Unavailable, check_equal
from benchmarks.comparisons import peaks, timed, times_faster
from benchmarks.contenders import (
    DIRECTIONS,
    HEAD_DIM,
    HEADS,
    SIDE,
    WINDOW,
    Contender,
    ours,
    random_inputs,
    useful_flop,
)
from benchmarks.suites import Case, Options
from benchmarks.table import Goal, Row

# The goals are set for this length; at others the figure is printed without one.
GOAL_LENGTH = 4096

RATE_GOALS = {"forward": Goal(">=", 0.60), "forward+backward": Goal(">=", 0.50)}
BASELINE_GOALS = {
    "huggingface": {"forward": Goal(">=", 5), "forward+backward": Goal(">=", 7)},
    "flex": {"forward": Goal(">=", 1.3)},
}
DILATION_GOAL = Goal("<=", 1.2)
GLOBALS_GOAL = Goal("<=", 1.25)
UNION_GOAL = Goal("<=", 1.6)
LENGTH_TIME_GOAL = Goal("<=", 4.4)
LENGTH_MEMORY_GOAL = Goal("<=", 4.2)

GLOBAL_TOKENS = 16
VARIANTS = {
    "dilation-2": ("all heads dilated / none", sp.Window(SIDE, SIDE, dilation=2), DILATION_GOAL),
    "dilation-4": ("all heads dilated / none", sp.Window(SIDE, SIDE, dilation=4), DILATION_GOAL),
    "dilation-mixed": (
        "2 heads by 2, 2 by 4 / none",
        sp.Window(SIDE, SIDE, dilation=(*[1] * (HEADS - 4), 2, 2, 4, 4)),
        DILATION_GOAL,
    ),
    "globals": (
        f"{GLOBAL_TOKENS} global tokens / none",
        WINDOW | sp.Global(tuple(range(GLOBAL_TOKENS))),
        GLOBALS_GOAL,
    ),
}
UNIONS: dict[str, tuple[sp.Pattern, Goal | None]] = {
    **{
        name: (sp.get(name), UNION_GOAL)
        for name in ("bigbird", "sparse-transformer-strided", "sparse-transformer-fixed")
    },
    # About as many keys as the two of the Sparse Transformer: what the width alone makes of it.
    "narrow-window": (sp.Window(64, 64), None),
}


def at_goal_length(length: int, goal: Goal | None) -> Goal | None:
    """The goal, at the length it is set for."""
    return goal if length == GOAL_LENGTH else None


def matmul_rate(options: Options) -> Iterator[Row]:
    """Share of the machine's matrix-product rate that goes into useful work."""
    for length in options.lengths:
        window = ours(WINDOW, length)
        for direction in DIRECTIONS:
            work = useful_flop(length, direction) / machine.MATMUL_FLOP
            yield timed(
                "matmul-rate",
                "share of the matmul rate",
                length,
                direction,
                (window.run(direction), machine.matmul()),
                lambda mine, other, work=work: work * other / mine,
                at_goal_length(length, RATE_GOALS[direction]),
                options,
            )


def against(name: str, options: Options) -> Iterator[Row]:
    """How many times faster our side is than a baseline."""
    for length in options.lengths:
        window = ours(WINDOW, length)
        try:
            other = BASELINES[name](length)
        except (Unavailable, ImportError) as error:
            yield Row(name, "not available", length, note=str(error))
            continue
        if name != "dense":  # which sees other pairs than the window
            check_equal(window.forward(), other.forward())
        for direction in DIRECTIONS[:1] if name == "flex" else DIRECTIONS:
            yield timed(
                name,
                "times faster",
                length,
                direction,
                (window.run(direction), other.run(direction)),
                times_faster,
                at_goal_length(length, BASELINE_GOALS.get(name, {}).get(direction)),
                options,
            )


def variant(name: str, options: Options) -> Iterator[Row]:
    """Time of another pattern over the time of the plain window."""
    figure, pattern, goal = VARIANTS[name]
    for length in options.lengths:
        yield from over_window(name, figure, ours(pattern, length), length, 1.0, goal, options)


def projected_layout(options: Options) -> Iterator[Row]:
    """Time with the heads inside the length, as projections leave them, over contiguous inputs."""
    for length in options.lengths:
        inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in random_inputs(length)]
        strided = ours(WINDOW, length).on(tuple(inputs))
        figure = "heads inside length / outside"
        yield from over_window("layout", figure, strided, length, 1.0, None, options)


def union(name: str, options: Options) -> Iterator[Row]:
    """Time per visible pair of another pattern over that of the plain window."""
    pattern, goal = UNIONS[name]
    for length in options.lengths:
        pairs = visible_pairs(WINDOW, length) / visible_pairs(pattern, length)
        contender = ours(pattern, length)
        figure = "time per visible pair / window"
        yield from over_window(name, figure, contender, length, pairs, goal, options)


def over_window(
    case: str,
    figure: str,
    contender: Contender,
    length: int,
    factor: float,
    goal: Goal | None,
    options: Options,
) -> Iterator[Row]:
    """Times a contender of ours over the plain window, in both directions, times `factor`."""
    window = ours(WINDOW, length)
    for direction in DIRECTIONS:
        yield timed(
            case,
            figure,
            length,
            direction,
            (contender.run(direction), window.run(direction)),
            lambda mine, plain: factor * mine / plain,
            at_goal_length(length, goal),
            options,
        )


def visible_pairs(pattern: sp.Pattern, length: int) -> float:
    """Number of pairs that a pattern shows, in all heads together."""
    plan = sp.plan(pattern, length, heads=HEADS, head_dim=HEAD_DIM)
    return plan.density * HEADS * length**2


def length_time(options: Options) -> Iterator[Row]:
    """Time at the longest length over the time at the shortest."""
    short, long = options.lengths[0], options.lengths[-1]
    if short == long:
        return
    goal = LENGTH_TIME_GOAL if (short, long) == (GOAL_LENGTH, 4 * GOAL_LENGTH) else None
    for direction in DIRECTIONS:
        yield timed(
            "length-time",
            f"time at {long:,} / at {short:,}",
            None,
            direction,
            (ours(WINDOW, long).run(direction), ours(WINDOW, short).run(direction)),
            lambda longer, shorter: longer / shorter,
            goal,
            options,
        )


def length_memory(options: Options) -> Iterator[Row]:
    """Peak memory at the longest length over that at the shortest, and against Hugging Face's."""
    short, long = options.lengths[0], options.lengths[-1]
    goal = LENGTH_MEMORY_GOAL if (short, long) == (GOAL_LENGTH, 4 * GOAL_LENGTH) else None
    for direction in DIRECTIONS:
        yield from peaks(
            "memory",
            "benchmarks.baselines",
            direction,
            goal,
            options,
            baseline="huggingface",
            owner="Hugging Face's",
        )


CASES = [
    Case("matmul-rate", "share of the machine's float32 matrix-product rate", matmul_rate),
    *[Case(name, f"times faster than {name}", partial(against, name)) for name in BASELINES],
    *[Case(name, f"{VARIANTS[name][0]}", partial(variant, name)) for name in VARIANTS],
    Case("layout", "inputs as projections leave them, over contiguous ones", projected_layout),
    *[
        Case(name, "time per visible pair over the window's", partial(union, name))
        for name in UNIONS
    ],
    Case("length-time", "time at the longest length over the shortest", length_time),
    Case("memory", "peak memory by length, and against Hugging Face's core", length_memory),
]
