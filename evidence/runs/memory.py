"""Segments that remember the one before, against segments that do not (Transformer-XL)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning

from evidence.language_model import COMMON, SETUP, data_of, test, train
from evidence.protocol import Curve, Metric, Protocol
from evidence.text import WIKIPEDIA
from lit_modules.language_model import LanguageModel

SEGMENT, WINDOW, ROWS, STEPS = 128, 256, 8, 1000
TEST_ROWS, TEST_BATCHES = 8, 96

PROTOCOL = Protocol(
    name="memory",
    question="Does a segment gain from the keys and values of the segments before it?",
    arms={"memory": {"memory": WINDOW}, "none": {"memory": 0}},
    seeds=(0, 1, 2),
    metrics=(
        Metric("bits_per_byte", "bits per byte, tested as trained", 4),
        Metric("with_memory", "bits per byte, tested with memory", 4),
        Metric("without_memory", "bits per byte, tested without", 4),
        Metric("training_seconds", "training, s of one core", 0, exact=False),
    ),
    comparisons=(("memory", "none"),),
    setup=f"{SETUP} {STEPS:,} steps of {ROWS} segments of {SEGMENT} bytes that continue one "
    f"another, a window of {WINDOW} keys before the query in every layer of both arms. With "
    f"memory, a segment sees what is in the window from the {WINDOW} bytes before it, so that the "
    f"last layer draws on {4 * WINDOW:,} bytes; without, it sees itself alone. Test: the same "
    f"{TEST_ROWS * TEST_BATCHES * SEGMENT:,} bytes, every byte scored, each model with the memory "
    "it was trained with, with memory, and without.",
    data=WIKIPEDIA,
    paper="reports nothing. Transformer-XL (Dai et al. 2019) reports 1.06 bits per character for "
    "enwik8 with 12 layers, a model much larger than this one.",
    shows="what context from before a segment is worth in bits, in training and in testing apart.",
    does_not_show="that memory beats longer segments at equal time: the row without memory is "
    "cheaper, and its time stands beside.",
    common={
        **COMMON,
        "pattern": {"window": {"before": WINDOW}},
        "table": [{"steps": STEPS, "sequence_length": SEGMENT, "batch_size": ROWS}],
        "evaluation": {"stream": True, "eval_length": SEGMENT, "eval_batch_size": TEST_ROWS},
        "test_batches": TEST_BATCHES,
        "validation_batches": 16,
    },
    curve=Curve("course", "bytes of training", "bits per byte, validation as trained"),
    same=("tokens",),
)

READING = (
    "Memory hurt: that arm ends 0.25 bits higher, in all three seeds. A likely reason: it chooses "
    "among up to 256 keys where the other has at most 128, and at the start of a training wide "
    "windows learn slower (see windows by depth). What it learned it uses: without memory the "
    "same weights lose 0.22 bits. Weights that were trained without memory cannot use it: keys "
    "beyond 128 bytes stand at distances that they have never seen."
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train, and test with and without memory."""
    lightning.seed_everything(seed, workers=True, verbose=False)
    data = data_of(seed, **arm["evaluation"])
    model = _model(data.vocabulary_size, arm, arm["memory"])
    course = train(model, data, arm)
    tested = {}
    for name, memory in (("with_memory", WINDOW), ("without_memory", 0)):
        other = _model(data.vocabulary_size, arm, memory)
        other.load_state_dict(model.state_dict())
        tested[name] = test(other, data, arm["test_batches"])
    own = tested["with_memory" if arm["memory"] else "without_memory"]
    return {"bits_per_byte": own, **tested, **course.figures()}


def _model(vocabulary: int, arm: dict[str, Any], eval_memory: int) -> LanguageModel:
    memory = {"memory": arm["memory"], "eval_memory": eval_memory}
    return LanguageModel(vocabulary, pattern=arm["pattern"], **memory, **arm["model"])
