"""An encoder made long by copies of its positions, against random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence.encoders import BASE_TEXT, LONG, PAGES, go_on
from evidence.protocol import Curve, Metric, Protocol

STEPS, RATE = 60, 1e-4

PROTOCOL = Protocol(
    name="copied-positions",
    question="Does an encoder that is made long start better with copies of its positions?",
    arms={"copied": {"positions": "copied"}, "random": {"positions": "random"}},
    seeds=(0, 1, 2),
    metrics=(
        Metric("before", "before training (bits per character)"),
        Metric("after", "after it"),
    ),
    comparisons=(("copied", "random"),),
    setup=(
        f"{BASE_TEXT} Then it is made long: {LONG['length']:,} positions, windows of "
        f"{LONG['window']} tokens (half of it on each side), and a table of positions that is four "
        "copies of the 512 trained ones, or random throughout (standard deviation 0.02). "
        f"{STEPS} steps of one row of {LONG['length']:,} tokens follow, all weights trained, at a "
        f"rate of {RATE} with a tenth of warm-up and a linear fall to zero, without dropout. The "
        "seed decides the random positions, rows and masks; rows and masks are the same in both "
        "arms. 15 % of the tokens of the held-out pages are scored, masked alike each time."
    ),
    data=PAGES,
    paper=(
        "1.957 (copied) and 10.299 (random) before training, 1.846 for RoBERTa at 512; 1.753 "
        "(copied) after 2,000 updates."
    ),
    shows=(
        "What copies save right after the change and after a short training, with the same "
        "weights otherwise."
    ),
    does_not_show=(
        "Where either arm ends after long training; and the paper's size of the difference, "
        "since our head is young, and our encoder one of sentences. The paper's figures are bits "
        "per masked token (its authors' code divides by tokens), ours per character."
    ),
    curve=Curve("curve", "training steps", "bits per character, held-out pages"),
    same=("short",),
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Make the prepared encoder long, score it, train it, and score it again."""
    return go_on(folder, seed, {"positions": arm["positions"]}, steps=STEPS, rate=RATE, points=4)
