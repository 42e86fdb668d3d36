"""Five stages that double length and window, against the full length from the first step on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evidence.language_model import COMMON, ROWS, SETUP, TESTED, measure_pattern
from evidence.protocol import Curve, Metric, Protocol
from evidence.text import WIKIPEDIA

WINDOWS = (2, 4, 16, 32)
"""Keys before the query in stage 1; sixteen times as many in stage 5."""

STAGE_STEPS = (500, 180, 140, 100, 80)
EQUAL_TIME = 800
"""Steps at full length in the time of the five stages: of two seeds, 770 and 830."""


def _stages() -> list[dict[str, Any]]:
    return [
        {
            "steps": steps,
            "sequence_length": 64 * 2**number,
            "batch_size": 16 * ROWS // 2**number,
            "window_scale": float(2**number),
        }
        for number, steps in enumerate(STAGE_STEPS)
    ]


def _whole(steps: int) -> dict[str, Any]:
    full = {"sequence_length": 1024, "batch_size": ROWS, "window_scale": 16.0}
    return {"table": [{"steps": steps, **full}]}


PROTOCOL = Protocol(
    name="stages",
    question="Is a model that is trained in stages of doubling length better for its cost?",
    arms={
        "stages": {"table": _stages()},
        "full-length-equal-tokens": _whole(sum(STAGE_STEPS)),
        "full-length-equal-time": _whole(EQUAL_TIME),
    },
    seeds=(0, 1, 2),
    metrics=(
        Metric("bits_per_byte", "bits per byte", 4),
        Metric("training_seconds", "training, s of one core", 0, exact=False),
        Metric("tokens", "bytes of training", 0, compared=False),
    ),
    comparisons=(
        ("stages", "full-length-equal-tokens"),
        ("stages", "full-length-equal-time"),
    ),
    setup=f"{SETUP} Stages of 64, 128, 256, 512 and 1,024 bytes with windows of 2 to 32 keys in "
    f"stage 1 and 32 to 512 in stage 5, {', '.join(map(str, STAGE_STEPS))} steps of "
    f"{ROWS * 1024:,} bytes; against as many steps at 1,024 bytes with the last windows, and "
    f"{EQUAL_TIME} such steps, which take as long (first 660 by a pilot: they took 0.8 of the "
    "time, and were run anew). One learning rate for all: the cosine of the share of the steps "
    f"done, and a warm-up at the start of each stage. {TESTED}",
    data=WIKIPEDIA,
    paper="stages train faster, since local context is learned first and cheaply (section 4.2); no "
    "figures. It halves the learning rate with each stage, here it is left as it is.",
    shows="what the short stages cost in bits at equal bytes, and what they gain at equal time.",
    does_not_show="stages of the paper's lengths, where a step at full length costs many times one "
    "of stage 1; here it costs less than twice as much, so there is less to gain.",
    common={
        **COMMON,
        "pattern": {
            "name": "longformer-causal",
            "window": {"steps": [[keys, 1] for keys in WINDOWS]},
            "dilation": 1,
        },
    },
    curve=Curve("course_seconds", "seconds of training", "bits per byte, validation", exact=False),
)

READING = (
    "At equal bytes stages take a sixth less time; the bits they lose by it, and those that they "
    "gain at equal time, are both within the noise of three seeds. The plot shows why there is "
    "little to gain: a model of short stages is far ahead until windows double, then falls back, "
    "and the last stage is too short to make up for it."
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train and test."""
    return measure_pattern(arm, seed)
