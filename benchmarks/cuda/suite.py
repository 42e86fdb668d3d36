"""The attention core on an NVIDIA GPU, in bfloat16, against dense attention and its other rivals.

For each of our kernels that can serve: the share of the ideal, which is the time of dense flash
attention times the share of pairs that is visible, over the time measured; how many times faster it
is than FlexAttention and flash-attn's window; and its peak memory.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.baselines import Unavailable, check_equal
from benchmarks.comparisons import memory_row, timed, times_faster
from benchmarks.contenders import DIRECTIONS, Contender
from benchmarks.cuda.contenders import BASELINES, dense, our_kernels, ours
from benchmarks.cuda.shapes import (
    DILATION_GOAL,
    FLEX_GOAL,
    GOAL_HEAD_DIM,
    GOAL_LENGTH,
    HEAD_DIMS,
    PATTERNS,
    CudaShape,
    share_of_ideal,
)
from benchmarks.suites import Case, Options
from benchmarks.table import Row

TOLERANCE = 4e-2  # two bfloat16 outputs of unit inputs


def missing() -> str | None:
    """What keeps the suite from running here, in one line; None if nothing does."""
    if torch.cuda.is_available():
        return None
    return "the suite 'cuda' needs an NVIDIA GPU and a CUDA build of torch; torch sees no GPU"


def synchronised(call: Callable[[], object]) -> Callable[[], object]:
    """The call until the GPU is done with it."""

    def run() -> object:
        result = call()
        torch.cuda.synchronize()
        return result

    return run


def peak_bytes(call: Callable[[], object]) -> int:
    """Most memory that a call holds beside what was there before, in bytes."""
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(name: str, head_dim: int, options: Options) -> Iterator[Row]:
    """Every figure of a pattern at a head size."""
    for length in options.lengths:
        shape = CudaShape(name, length, head_dim)
        for kernel in our_kernels():
            case = f"{name}-d{head_dim} {kernel}"
            try:
                mine = ours(shape, kernel)
                yield from _against_all(case, shape, mine, options)
            except Unavailable as error:
                yield Row(case, "not available", length, note=str(error))
            torch.cuda.empty_cache()


def _against_all(case: str, shape: CudaShape, mine: Contender, options: Options) -> Iterator[Row]:
    length = shape.length
    everything = dense(shape)
    for direction in DIRECTIONS:
        run, other = synchronised(mine.run(direction)), synchronised(everything.run(direction))
        density = shape.density
        yield timed(
            case,
            "share of the ideal",
            length,
            direction,
            (run, other),
            lambda seconds, whole, density=density: share_of_ideal(whole, density, seconds),
            shape.goal(direction),
            options,
        )
        peaks = peak_bytes(run), peak_bytes(other)
        yield memory_row(case, "of dense attention's memory", length, direction, *peaks, None)
    for baseline, make in BASELINES.items():
        try:
            rival = make(shape)
            check_equal(mine.forward(), rival.forward(), tolerance=TOLERANCE)
        except (Unavailable, RuntimeError) as error:
            first = str(error).partition("\n")[0]
            yield Row(case, f"{baseline}: not available", length, note=first)
            continue
        for direction in DIRECTIONS:
            yield timed(
                case,
                f"times faster than {baseline}",
                length,
                direction,
                (synchronised(mine.run(direction)), synchronised(rival.run(direction))),
                times_faster,
                FLEX_GOAL if baseline == "flex" and shape.goal(direction) else None,
                options,
            )


def dilation(options: Options) -> Iterator[Row]:
    """Time of two dilated heads over that of none."""
    for length in options.lengths:
        shapes = [
            CudaShape(name, length, GOAL_HEAD_DIM) for name in ("dilation-1024", "window-1024")
        ]
        mine, plain = (ours(shape, "xformers_fused") for shape in shapes)
        for direction in DIRECTIONS:
            yield timed(
                "dilation",
                "2 heads dilated / none",
                length,
                direction,
                (synchronised(mine.run(direction)), synchronised(plain.run(direction))),
                lambda dilated, window: dilated / window,
                DILATION_GOAL if length == GOAL_LENGTH else None,
                options,
            )


CASES = [
    Case(f"{name}-d{size}", f"{PATTERNS[name]!r}"[:60], partial(measure, name, size))
    for name in PATTERNS
    for size in HEAD_DIMS
] + [Case("dilation", "two dilated heads of sixteen over none", dilation)]
