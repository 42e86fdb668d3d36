"""Windows that grow, stay, or shrink with depth, with the same keys on average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence.language_model import COMMON, SETUP, TESTED, TRAINED, measure_pattern
from evidence.protocol import Curve, Metric, Protocol
from evidence.text import WIKIPEDIA


def _arm(*windows: int) -> dict[str, Any]:
    """Return the pattern with so many keys before the query, from the bottom layer up."""
    window = {"steps": [[keys, 1] for keys in windows]}
    return {"pattern": {"name": "longformer-causal", "window": window, "dilation": 1}}


PROTOCOL = Protocol(
    name="windows-by-depth",
    question="Do windows that grow with depth serve better than equal or shrinking ones?",
    arms={
        "increasing": _arm(32, 64, 256, 512),
        "fixed": _arm(216, 216, 216, 216),
        "decreasing": _arm(512, 256, 64, 32),
    },
    seeds=(0, 1, 2, 3, 4),
    metrics=(Metric("bits_per_byte", "bits per byte", 4),),
    comparisons=(("increasing", "fixed"), ("decreasing", "fixed"), ("increasing", "decreasing")),
    setup=f"{SETUP} {TRAINED} Windows of 32, 64, 256 and 512 keys before the query, or 216 in each "
    f"layer: the same mean, and the same 864 bytes that the last layer can draw on. {TESTED}",
    data=WIKIPEDIA,
    paper="text8, characters, after 150,000 steps: 1.21 increasing (32 to 512), 1.23 fixed (230), "
    "1.24 decreasing (table 4).",
    shows="whether the order of the windows matters at the start of a training, all else equal.",
    does_not_show="what the order does after a long training, in a deep model, or where the text "
    "needs more than the mean window.",
    common=COMMON,
    curve=Curve("course", "bytes of training", "bits per byte, validation"),
    same=("tokens",),
)

READING = (
    "Windows that grow with depth are best, in all five seeds: the sign of the paper. Shrinking "
    "ones beat equal ones here, which is not the order of the paper (1.23 and 1.24), whose "
    "trainings are far longer: any order with some narrow windows learns sooner than equal "
    "windows of 216 keys."
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train and test."""
    figures = measure_pattern(arm, seed)
    return {name: figures[name] for name in ("bits_per_byte", "tokens", "course")}
