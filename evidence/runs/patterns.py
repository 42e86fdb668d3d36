"""Patterns of the literature side by side, with as many visible pairs each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch

import sparse_patterns as sp
from benchmarks.memory import peak_bytes
from evidence.language_model import COMMON, LENGTH, MODEL, SETUP, TRAINED, measure_pattern
from evidence.protocol import Curve, Metric, Protocol
from evidence.text import WIKIPEDIA
from lit_modules.language_model import LanguageModel

MEMORY_LENGTH = 8192
SCORED = LENGTH // 2
TEST_BATCHES, TEST_ROWS = 48, 4


def _steps(*numbers: int) -> dict[str, Any]:
    return {"steps": [[number, 1] for number in numbers]}


ARMS: dict[str, dict[str, Any]] = {
    "full": {"name": "full", "causal": True},
    "window": {"name": "longformer-causal", "window": 64, "dilation": 1},
    "longformer": {
        "name": "longformer-causal",
        "window": _steps(32, 32, 64, 138),
        "dilation": _steps(1, 1, 2, 2),
    },
    "bigbird": {"name": "bigbird", "block": 16, "per_row": 5, "global_tokens": 8},
    "strided": {"name": "sparse-transformer-strided", "stride": 56},
    "fixed": {"name": "sparse-transformer-fixed", "block": 64, "columns": 4},
    "streaming": {"name": "streaming", "window": 61, "sinks": 4},
}

PROTOCOL = Protocol(
    name="patterns",
    question="Which pattern gets most out of the same number of pairs of query and key?",
    arms={name: {"pattern": pattern} for name, pattern in ARMS.items()},
    seeds=(0, 1, 2),
    metrics=(
        Metric("bits_per_byte", "bits per byte", 4),
        Metric("pairs", "pairs of a head at 1,024", 0, compared=False),
        Metric("training_seconds", "training, s of one core", 0, exact=False),
        Metric("peak_megabytes", "memory of a step at 8,192, MB", 1, exact=False),
    ),
    comparisons=tuple((arm, "window") for arm in ARMS if arm != "window"),
    setup=f"{SETUP} {TRAINED} Numbers of each pattern are such that its visible pairs at 1,024 "
    "bytes, on average of layers and heads, are those of a window of 64 keys within 1 %; full "
    f"attention has eight times as many. Test: the same {TEST_BATCHES * TEST_ROWS * SCORED:,} "
    f"bytes for all, in windows of {LENGTH:,} bytes, the trained length, of which the last "
    f"{SCORED} are scored. The row was run anew for this: in windows of 2,048 bytes, as in the "
    "other rows, patterns that reach far meet distances that were never trained, and full "
    "attention grew worse in validation while it trained. Memory: how far a process rises in one "
    "step of one sequence of 8,192 bytes, forward and backward.",
    data=WIKIPEDIA,
    paper="reports nothing: it compares with published figures of other models.",
    shows="where pairs are best spent in a short training, and what each pattern costs in time and "
    "memory on a processor.",
    does_not_show="an order of the patterns for longer trainings, other budgets of pairs or other "
    "data; tuned numbers of each pattern.",
    common={
        **COMMON,
        "evaluation": {
            "eval_length": LENGTH,
            "eval_step": SCORED,
            "eval_batch_size": TEST_ROWS,
        },
        "test_batches": TEST_BATCHES,
        "validation_batches": 4,
    },
    curve=Curve("course", "bytes of training", "bits per byte, validation"),
    same=("tokens",),
)

READING = (
    "With as many pairs all patterns end close to one another: what they differ by is about the "
    "spread of the seeds, and the intervals say which differences are more than that. Full "
    "attention, with eight times as many pairs, ends highest after a training this short: it has "
    "more keys to choose from, and learns slower. What a pattern costs differs more: BigBird "
    "takes more than twice the time of a window."
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train and test, then measure the memory of a step in a process of its own."""
    figures = measure_pattern(arm, seed)
    figures.pop("course_seconds")
    words = json.dumps(arm["pattern"])
    peak = peak_bytes(__name__, words, MEMORY_LENGTH, "forward+backward", threads=1)
    return {**figures, "pairs": pairs(arm["pattern"]), "peak_megabytes": peak / 1e6}


def pairs(pattern: dict[str, Any], length: int = LENGTH) -> float:
    """Return the visible pairs of a head, on average of layers and heads."""
    causal = sp.from_config(pattern) & sp.Causal()
    layers, heads = MODEL["layers"], MODEL["heads"]
    total = 0
    for layer in range(layers):
        plan = sp.plan(causal, length, heads=heads, layer=layer, layers=layers)
        total += sum(group.visible * len(group.heads) for group in plan.groups)
    return total / layers / heads


def call_of(contender: str, length: int, direction: str) -> Callable[[], Any]:
    """Return one step of training; what `benchmarks.memory` calls in its process.

    Args:
        contender: The pattern as JSON.
        length: Bytes of the sequence.
        direction: Not used: a step goes forward and backward.
    """
    lightning.seed_everything(0, verbose=False)
    model = LanguageModel(256, pattern=json.loads(contender), **MODEL)
    ids = torch.randint(256, (1, length))

    def step() -> Any:
        nats, tokens, _ = model.score({"input_ids": ids, "labels": ids}, "train")
        (nats / tokens).backward()
        return model

    return step
