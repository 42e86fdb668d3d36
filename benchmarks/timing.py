"""Time of several calls, taken in interleaved rounds: of the wall clock, or of the processor.

A machine's speed drifts with heat and with what else runs on it. Calls that take turns in one
process see the same drift, so the ratio of their medians is steadier than either time. Where other
programs take the processor away, the time that it worked for this one tells more; with several
threads it is the sum of theirs.
"""

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, process_time

FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Effort:
    """How long to measure: at most `rounds` rounds, fewer where they would exceed `budget_s`.

    Never fewer than three, whatever the budget, since a median of less says nothing; except when
    `rounds` itself is smaller. With `processor` the time of the processor is taken.
    """

    rounds: int = 15
    budget_s: float = 10.0
    processor: bool = False

    def rounds_of(self, seconds: float) -> int:
        """The number of rounds to run when one takes `seconds`."""
        affordable = int(self.budget_s / max(seconds, 1e-9))
        return min(self.rounds, max(FEWEST_ROUNDS, affordable))


def seconds_of(call: Callable[[], object], processor: bool = False) -> float:
    """The time one call takes, its result freed inside, as a training step would."""
    clock = process_time if processor else perf_counter
    start = clock()
    call()
    return clock() - start


def interleave(
    calls: Mapping[str, Callable[[], object]], effort: Effort | None = None
) -> dict[str, list[float]]:
    """Times every call once a round, in an order that turns around each round.

    Each is called once before, which fills caches and tells how long a round takes.

    Returns:
        The times of each call in seconds, in the order of the rounds.
    """
    effort = effort or Effort()
    rounds = effort.rounds_of(sum(seconds_of(call, effort.processor) for call in calls.values()))
    times: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()  # a collection would land in whichever call happens to trigger it
    try:
        for turn in range(rounds):
            order = list(calls) if turn % 2 == 0 else list(reversed(calls))
            for name in order:
                times[name].append(seconds_of(calls[name], effort.processor))
    finally:
        gc.enable()
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """The median time of each call in seconds."""
    return {name: statistics.median(values) for name, values in times.items()}
