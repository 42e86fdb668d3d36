"""Masked language modelling goes on in an encoder that was made long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence.encoders import COMMON, PAGES, SCORED, START, go_on
from evidence.protocol import Curve, Metric, Protocol

STEPS = 240

PROTOCOL = Protocol(
    name="masked-lm-goes-on",
    question="What does further masked language modelling give an encoder that was made long?",
    arms={
        "all-weights": {"encoder": {"train_only": None}, "rate": 2e-4},
        "positions-only": {"encoder": {"train_only": "positions"}, "rate": 1e-3},
    },
    seeds=(0, 1),
    metrics=(
        Metric("before", "bits per character before training"),
        Metric("after", "after it"),
        Metric("last_quarter", "change in its last quarter"),
    ),
    comparisons=(("all-weights", "positions-only"),),
    setup=(
        f"{START} Then it is made long by copies: {COMMON['length']:,} positions, windows of "
        f"{COMMON['window']} tokens (half of it on each side). {STEPS} steps of one row of "
        f"{COMMON['length']:,} tokens follow: all weights at a rate of 2e-4, or the table of "
        "positions alone at 1e-3; a tenth of warm-up and a linear fall to zero. The seed decides "
        f"rows and masks. {SCORED}"
    ),
    data=PAGES,
    paper="1.957 before, 1.753 after 2,000 updates, 1.705 after 65,000; 1.850 where only positions "
    "are trained; 1.846 for RoBERTa at 512. It calls them bits per character; by "
    "their size they are bits per masked token.",
    shows="the course of the bits per character on pages that were not trained on, and how much "
    "of the gain the table of positions gives alone.",
    does_not_show="how good such an encoder becomes: the head is as young as the run, and the "
    "curve is flat at its end because the rate is zero there. Nor what is due to the length: "
    "training at 512 would have gained, too.",
    common={**COMMON, "steps": STEPS, "points": 8},
    curve=Curve("course", "training steps", "bits per character, held-out pages"),
    same=("short", "before"),
)

READING = (
    "Training all weights takes a tenth of a bit off, in both seeds, at first fast, then slower; "
    "how much of the flat end is due to the falling rate is not told apart. The table of "
    "positions alone gives nothing here: copied positions lost less than 0.01 bits against the "
    "encoder of 512 tokens (1.733), so that there is next to nothing for them to win back. The "
    "encoder of the paper lost more by the change (0.11), and its positions alone gained that "
    "much."
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Make the prepared encoder long and train it; it is kept as `encoder` in the folder."""
    figures = go_on(arm, seed, folder, keep=folder / "encoder")
    bits = {step: figure for step, figure in figures["course"]}
    end = arm["steps"]
    return {**figures, "last_quarter": bits[end] - bits[end * 3 // 4]}
