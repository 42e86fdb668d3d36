"""Masked language modelling goes on in an encoder that was made long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence.encoders import BASE_TEXT, LONG, PAGES, go_on
from evidence.protocol import Curve, Metric, Protocol

STEPS, POINTS = 240, 8

PROTOCOL = Protocol(
    name="masked-lm-goes-on",
    question="What does further masked language modelling give an encoder that was made long?",
    arms={
        "all-weights": {"train_only": None, "rate": 2e-4},
        "positions-only": {"train_only": "positions", "rate": 1e-3},
    },
    seeds=(0, 1),
    metrics=(
        Metric("before", "before training (bits per character)"),
        Metric("after", "after it"),
        Metric("last_quarter", "change in its last quarter"),
    ),
    comparisons=(("all-weights", "positions-only"),),
    setup=(
        f"{BASE_TEXT} Then it is made long by copies: {LONG['length']:,} positions, windows of "
        f"{LONG['window']} tokens (half of it on each side). {STEPS} steps of one row of "
        f"{LONG['length']:,} tokens follow: all weights at a rate of 2e-4, or the table of "
        "positions alone at 1e-3; a tenth of warm-up and a linear fall to zero, without dropout. "
        "The seed decides rows and masks. 15 % of the tokens of the held-out pages are scored, "
        "masked alike each time."
    ),
    data=PAGES,
    paper=(
        "1.957 before, 1.753 after 2,000 updates, 1.705 after 65,000; 1.850 where only positions "
        "are trained; 1.846 for RoBERTa at 512."
    ),
    shows=(
        "The course of the bits per character on pages that were not trained on, and how much of "
        "the gain the table of positions gives alone."
    ),
    does_not_show=(
        "How good such an encoder becomes: the head is as young as the run, and the curve is "
        "flat at the end because the rate is zero there. Nor what the length gives, for training "
        "at 512 would have gained, too. The paper's figures are bits per masked token, ours per "
        "character."
    ),
    curve=Curve("curve", "training steps", "bits per character, held-out pages"),
    same=("short", "before"),
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Make the prepared encoder long, train it, and keep it in `folder`/encoder."""
    figures = go_on(
        folder,
        seed,
        {"train_only": arm["train_only"]},
        steps=STEPS,
        rate=arm["rate"],
        points=POINTS,
        keep=folder / "encoder",
    )
    bits = {step: figure for step, figure in figures["curve"]}
    return {**figures, "last_quarter": bits[STEPS] - bits[STEPS * 3 // 4]}
