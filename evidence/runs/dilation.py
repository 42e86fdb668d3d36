"""Gaps between the keys of a window: on no head, on two heads, on all heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence.language_model import COMMON, SETUP, TESTED, TRAINED, measure_pattern
from evidence.protocol import Curve, Metric, Protocol
from evidence.text import WIKIPEDIA


def _steps(*numbers: int) -> dict[str, Any]:
    """Return a number for each layer, from the bottom up."""
    return {"steps": [[number, 1] for number in numbers]}


WINDOW, DILATION = _steps(32, 64, 128, 128), _steps(1, 1, 2, 4)

PROTOCOL = Protocol(
    name="dilation",
    question="Does a window with gaps in the upper layers serve better, and on how many heads?",
    arms={
        "none": {"pattern": {"name": "longformer-causal", "window": WINDOW, "dilation": 1}},
        "two-heads": {
            "pattern": {
                "name": "longformer-causal",
                "window": WINDOW,
                "dilation": DILATION,
                "dilated_heads": 2,
            }
        },
        "all-heads": {"pattern": {"window": {"left": WINDOW, "right": 0, "dilation": DILATION}}},
    },
    seeds=(0, 1, 2, 3, 4),
    metrics=(Metric("bits_per_byte", "bits per byte", 4),),
    comparisons=(("two-heads", "none"), ("all-heads", "none"), ("two-heads", "all-heads")),
    setup=f"{SETUP} {TRAINED} Windows of 32, 64, 128 and 128 keys before the query; dilation 1, 1, "
    f"2 and 4, on two of four heads or on all of them. {TESTED}",
    data=WIKIPEDIA,
    paper="text8, characters, after 150,000 steps: 1.21 without, 1.20 with dilation on two heads "
    "(table 4). No figure for all heads.",
    shows="whether reaching further with the same number of keys pays at the start of a training.",
    does_not_show="what it does after a long training. Near the beginning of a training sequence a "
    "dilated window lies partly before it and has fewer keys.",
    common=COMMON,
    curve=Curve("course", "bytes of training", "bits per byte, validation"),
    same=("tokens",),
)

READING = (
    "Noise: with five seeds no arm is told apart from another. The means are in the order of the "
    "paper (two heads below none), by 0.008 bits, where it reports 0.01 after a far longer "
    "training; the interval holds both signs."
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train and test."""
    figures = measure_pattern(arm, seed)
    return {name: figures[name] for name in ("bits_per_byte", "tokens", "course")}
