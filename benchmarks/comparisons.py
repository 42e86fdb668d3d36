"""The two ways in which every suite compares: times in interleaved rounds, and peaks of memory."""

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks import memory
from benchmarks.suites import Options
from benchmarks.table import Goal, Row, mebibytes, milliseconds
from benchmarks.timing import interleave, medians


def times_faster(ours: float, other: float) -> float:
    """How many times faster our side is, from both times."""
    return other / ours


def timed(
    case: str,
    figure: str,
    length: int | None,
    direction: str,
    calls: tuple[Callable[[], object], Callable[[], object]],
    measured: Callable[[float, float], float],
    goal: Goal | None,
    options: Options,
) -> Row:
    """Times our side against another in interleaved rounds.

    Args:
        case: Name of the case.
        figure: What `measured` gives, in words.
        length: Sequence length in tokens, or None where several are compared.
        direction: What one call does, as in `Row`.
        calls: Our side and the other.
        measured: From our median and the other's, in seconds, to the figure.
        goal: The bound at this length.
        options: How long to measure.
    """
    times = interleave(dict(zip(("ours", "other"), calls, strict=True)), options.effort)
    middle = medians(times)
    return Row(
        case=case,
        figure=figure,
        length=length,
        direction=direction,
        measured=measured(middle["ours"], middle["other"]),
        goal=goal,
        ours=milliseconds(middle["ours"]),
        other=milliseconds(middle["other"]),
        samples=times,
    )


def peaks(
    case: str,
    source: str,
    direction: str,
    goal: Goal | None,
    options: Options,
    *,
    baseline: str,
    owner: str,
) -> Iterator[Row]:
    """Peak memory at the longest length over that at the shortest, and against a baseline's there.

    Args:
        case: Name of the case.
        source: Module that makes the calls, as in `memory.peak_bytes`.
        direction: What one call does, as in `Row`.
        goal: The bound on the longest over the shortest.
        options: The lengths and threads.
        baseline: The contender that "ours" is compared with at the shortest length.
        owner: Whose memory that is, in words.
    """
    peak = partial(memory.peak_bytes, source, direction=direction, threads=options.threads)
    short, long = options.lengths[0], options.lengths[-1]
    ours = peak("ours", short)
    if short != long:
        longest = peak("ours", long)
        figure = f"memory at {long:,} / at {short:,}"
        yield memory_row(case, figure, None, direction, longest, ours, goal)
    other = peak(baseline, short)
    yield memory_row(case, f"of {owner} memory", short, direction, ours, other, None)


def memory_row(
    case: str,
    figure: str,
    length: int | None,
    direction: str,
    ours: int,
    other: int,
    goal: Goal | None,
) -> Row:
    """The ratio of two peaks in bytes."""
    return Row(
        case=case,
        figure=figure,
        length=length,
        direction=direction,
        measured=ours / other,
        goal=goal,
        ours=mebibytes(ours),
        other=mebibytes(other),
        samples={"ours": [ours], "other": [other]},
    )
