"""An encoder made long by copies of its positions, against random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence.encoders import COMMON, PAGES, SCORED, START, go_on
from evidence.protocol import Curve, Metric, Protocol

STEPS, RATE = 48, 1e-4

PROTOCOL = Protocol(
    name="copied-positions",
    question="Does an encoder that is made long start better with copies of its positions?",
    arms={
        "copied": {"encoder": {"positions": "copied"}},
        "random": {"encoder": {"positions": "random"}},
    },
    seeds=(0, 1, 2),
    metrics=(
        Metric("before", "bits per character before training"),
        Metric("after", "after it"),
    ),
    comparisons=(("copied", "random"),),
    setup=(
        f"{START} Then it is made long: {COMMON['length']:,} positions, windows of "
        f"{COMMON['window']} tokens (half of it on each side), and a table of positions that is "
        "four copies of the 512 trained ones, or random throughout (standard deviation 0.02). "
        f"{STEPS} steps of one row of {COMMON['length']:,} tokens follow, all weights trained, "
        f"rate {RATE} with a tenth of warm-up and a linear fall to zero. The seed decides random "
        f"positions, rows and masks; rows and masks are the same in both arms. {SCORED}"
    ),
    data=PAGES,
    paper="1.957 (copied) and 10.299 (random) before training, 1.846 for RoBERTa at 512, 1.753 "
    "(copied) after 2,000 updates. It calls them bits per character; by their size they are bits "
    "per masked token.",
    shows="what copies save right after the change and after a short training, all other weights "
    "being the same.",
    does_not_show="where either arm ends after long training; and the size of the difference in "
    "an encoder whose head was trained for longer than ours.",
    common={**COMMON, "steps": STEPS, "rate": RATE, "points": 4},
    curve=Curve("course", "training steps", "bits per character, held-out pages"),
    same=("short",),
)

READING = (
    "Copies start 0.66 bits lower, 0.01 from the encoder of 512 tokens (1.733), and after the "
    "training are still 0.47 lower: the sign of the paper. The distance to random positions is "
    "smaller than the paper's 8.3 bits, which are counted for a token and not for a character, "
    "and belong to an encoder that had learned for longer to use its positions."
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Make the prepared encoder long, score it, train it, and score it again."""
    return go_on(arm, seed, folder)
