"""Global tokens where the evidence is out of reach of the windows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from datamodules import FarChoice
from evidence.encoders import Course
from evidence.language_model import quiet_trainer
from evidence.protocol import Curve, Metric, Protocol
from lit_modules.callbacks.randomness import SeedEachBatch
from lit_modules.candidate_choice import CandidateChoice
from lit_modules.pretrained.backbone import EncoderSettings

DATA = {
    "distance": 32,
    "choices": 2,
    "decoys": 0,
    "keys": 4,
    "values": 8,
    "noise": 4,
    "spread": 8,
    "max_length": 128,
    "batch_size": 32,
    "eval_batch_size": 100,
    "eval_examples": 500,
}
ENCODER = {
    "layers": 2,
    "heads": 4,
    "width": 64,
    "window": 16,
    # Small weights would take thousands of steps before any attention is sharp.
    "init_std": 0.2,
    "max_length": 128,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
STEPS = 500

_GLOBAL = "question-and-candidates"

PROTOCOL = Protocol(
    name="global-tokens",
    question="What do global tokens, and projections of their own, buy where evidence is far?",
    arms={
        "none": {"global_tokens": "none", "global_projections": False},
        "shared": {"global_tokens": _GLOBAL, "global_projections": False},
        "separate": {"global_tokens": _GLOBAL, "global_projections": True},
    },
    seeds=(0, 1, 2, 3, 4),
    metrics=(
        Metric("accuracy", "accuracy"),
        Metric("loss", "loss (nats)"),
        Metric("solved", f"steps until an accuracy of 0.9 ({STEPS} if never)", 0),
    ),
    comparisons=(("shared", "none"), ("separate", "none"), ("separate", "shared")),
    setup=(
        f"An encoder from fresh weights, {ENCODER['layers']} layers, width {ENCODER['width']}, "
        f"windows of {ENCODER['window']} tokens, which reach 16 tokens over both layers. {STEPS} "
        f"steps of {DATA['batch_size']} questions, rate 2e-3 with 5 % of warm-up and a linear fall "
        "to zero. Question and candidates are global, or nothing is; global tokens have the "
        "projections of the others (shared), or their own, which start as copies (separate). The "
        "seed decides weights and questions, the same in all arms; no question is trained on "
        f"twice, {DATA['eval_examples']} others are scored, and as many more for the curve."
    ),
    data=(
        "the data set `far-choice`: the question is a key, two candidates are values; at least "
        f"{DATA['distance']} words after them, `key value` stands in noise and names the right one."
    ),
    paper="accuracy on WikiHop, dev, 5 epochs: 65.5 (none), 72.2 (shared), 73.8 (separate).",
    shows="whether evidence out of the reach of all windows is found through global tokens, and "
    "how soon.",
    does_not_show="how much that is worth in real text: the task is made so that an arm without "
    "global tokens can only guess, at 0.5; the paper's, of real text, is far above its chance.",
    common={
        "data": DATA,
        "encoder": ENCODER,
        "model": {"learning_rate": 2e-3, "betas": [0.9, 0.98], "warmup": 0.05},
        "steps": STEPS,
        "points": 10,
    },
    curve=Curve("course", "training steps", "accuracy"),
    same=("steps",),
)

READING = (
    "Without global tokens no seed leaves chance. With projections of their own four of five "
    "seeds solve the task, with shared ones two of five: the order of the paper. A seed finds the "
    "evidence or stays near chance, so the spread is wide, and five seeds do not tell shared from "
    "separate projections."
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train on questions of the seed, and answer those that are held out."""
    steps = arm["steps"]
    data = FarChoice(
        **arm["data"],
        train_examples=steps * arm["data"]["batch_size"],
        seed=seed,
        global_tokens=arm["global_tokens"],
        preprocess_workers=0,
        cache_dir=str(folder.parent / "cache"),
    )
    encoder = EncoderSettings(**arm["encoder"], global_projections=arm["global_projections"])
    model = CandidateChoice(
        data.vocabulary_size, pad_id=data.pad_id, encoder=encoder, **arm["model"]
    )
    course = Course("val/accuracy")
    trainer = quiet_trainer(
        callbacks=[SeedEachBatch(), course],
        max_steps=steps,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=None,
        val_check_interval=steps // arm["points"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, datamodule=data)
        figures = trainer.test(model, datamodule=data, verbose=False)[0]
    solved = [step for step, accuracy in course.found if accuracy >= 0.9]
    return {
        "accuracy": figures["test/accuracy"],
        "loss": figures["test/loss"],
        "solved": solved[0] if solved else steps,
        "course": course.found,
        "steps": trainer.global_step,
    }
