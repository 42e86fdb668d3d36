"""Positions that are trained on 512 bytes and tested on 512, 1,024 and 2,048."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning

from evidence.language_model import COMMON, SETUP, data_of, test, train
from evidence.protocol import Curve, Metric, Protocol
from evidence.text import WIKIPEDIA
from lit_modules.language_model import LanguageModel

STEPS, ROWS, TRAINED_LENGTH, LENGTHS = 1500, 2, 512, (512, 1024, 2048)
BYTES = 98_304

PROTOCOL = Protocol(
    name="extrapolation",
    question="Which positions still serve at lengths that were never trained?",
    arms={name: {"positions": name} for name in ("alibi", "t5", "rotary", "transformer-xl")},
    seeds=(0, 1, 2),
    metrics=(
        *(Metric(f"at_{length}", f"bits per byte at {length:,}", 4) for length in LENGTHS),
        Metric("change", "2,048 less 512", 4),
    ),
    comparisons=(("alibi", "rotary"), ("t5", "rotary"), ("transformer-xl", "rotary")),
    setup=f"{SETUP} Full causal attention. {STEPS:,} steps of {ROWS} sequences of "
    f"{TRAINED_LENGTH} bytes. Test: the same {BYTES:,} bytes, cut into windows of 512, 1,024 and "
    "2,048 bytes that do not overlap, every byte scored; longer windows give more "
    "context on average.",
    data=WIKIPEDIA,
    paper="reports nothing. That of ALiBi (Press et al. 2022, figure 1) trains on 512 tokens of "
    "WikiText-103 and tests on more: ALiBi stays good, T5's bias for some hundreds of tokens more, "
    "rotary positions for fewer.",
    shows="whether the bits fall or rise beyond the trained length, for the same weights.",
    does_not_show="how much a model gains that is trained on the longer length.",
    common={
        **COMMON,
        "pattern": {"name": "full", "causal": True},
        "table": [{"steps": STEPS, "sequence_length": TRAINED_LENGTH, "batch_size": ROWS}],
        "evaluation": {"eval_length": TRAINED_LENGTH, "eval_batch_size": 8},
    },
    curve=Curve("by_length", "bytes of a window in the test", "bits per byte", log_x=True),
    same=("tokens",),
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train on one length and test on three."""
    lightning.seed_everything(seed, workers=True, verbose=False)
    data = data_of(seed, **arm["evaluation"])
    model = LanguageModel(
        data.vocabulary_size, pattern=arm["pattern"], positions=arm["positions"], **arm["model"]
    )
    course = train(model, data, arm)
    bits = {}
    for length in LENGTHS:
        rows = 4096 // length
        longer = data_of(seed, eval_length=length, eval_batch_size=rows)
        bits[length] = test(model, longer, BYTES // (rows * length))
    return {
        **{f"at_{length}": value for length, value in bits.items()},
        "change": bits[2048] - bits[512],
        "by_length": [[length, value] for length, value in bits.items()],
        "tokens": course.tokens,
        "course": course.figures()["course"],
    }
