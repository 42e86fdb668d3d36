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

STEPS, QUESTIONS, EVERY, HELD_OUT = 400, 32, 50, 500
DISTANCE, WINDOW, LAYERS = 32, 16, 2

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
        f"An encoder from fresh weights, {LAYERS} layers, width 64, 4 heads, windows of {WINDOW} "
        f"tokens, which reach {LAYERS * WINDOW // 2} tokens over both layers. {STEPS} steps of "
        f"{QUESTIONS} questions, AdamW, rate 2e-3 with 5 % of warm-up and a linear fall to zero. "
        "Question and candidates are global, or nothing is; global tokens have the projections of "
        "the others (shared), or their own, which start as copies (separate). The seed decides "
        f"weights and questions; no question comes twice, and {HELD_OUT} others are scored, and "
        f"as many for the curve, every {EVERY} steps."
    ),
    data=(
        "The data set `far-choice`: questions made from the seed. The question is a key, two "
        f"candidates are values; at least {DISTANCE} words later `key value` stands in noise and "
        "names the right one."
    ),
    paper="Accuracy on WikiHop, dev, 5 epochs: 65.5 (none), 72.2 (shared), 73.8 (separate).",
    shows=(
        "Whether evidence outside of the reach of all windows is found through global tokens, and "
        "how soon."
    ),
    does_not_show=(
        "How much that is worth in real text: the task is made so that an arm without global "
        "tokens can only guess, at 0.5. The paper's pretrained model starts from 65.5."
    ),
    curve=Curve("curve", "training steps", "accuracy"),
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train on questions of the seed, and answer those that are held out."""
    data = FarChoice(
        distance=DISTANCE,
        choices=2,
        decoys=0,
        keys=4,
        values=8,
        noise=4,
        spread=8,
        train_examples=STEPS * QUESTIONS,
        eval_examples=HELD_OUT,
        batch_size=QUESTIONS,
        eval_batch_size=100,
        max_length=128,
        seed=seed,
        global_tokens=arm["global_tokens"],
        preprocess_workers=1,
        cache_dir=str(folder / "cache"),
    )
    encoder = EncoderSettings(
        layers=LAYERS,
        heads=4,
        width=64,
        window=WINDOW,
        # Small weights would take thousands of steps before any attention is sharp.
        init_std=0.2,
        max_length=128,
        dropout=0.0,
        attention_dropout=0.0,
        global_projections=arm["global_projections"],
    )
    model = CandidateChoice(
        data.vocabulary_size,
        pad_id=data.pad_id,
        encoder=encoder,
        learning_rate=2e-3,
        betas=(0.9, 0.98),
        warmup=0.05,
    )
    course = Course("val/accuracy")
    trainer = quiet_trainer(
        callbacks=[SeedEachBatch(), course],
        max_steps=STEPS,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=None,
        val_check_interval=EVERY,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, datamodule=data)
        figures = trainer.test(model, datamodule=data, verbose=False)[0]
    solved = [step for step, accuracy in course.found if accuracy >= 0.9]
    return {
        "accuracy": figures["test/accuracy"],
        "loss": figures["test/loss"],
        "solved": solved[0] if solved else STEPS,
        "curve": course.found,
    }
