"""Long film reviews with their sentiment, split into training and test without a shared text."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["LONG", "Judged", "accuracy", "judge", "write_reviews"]

LONG = 700
"""Reviews of more words than this are taken."""


def write_reviews(file: Path, folder: Path, *, train: int, test: int) -> dict[str, int]:
    """Write `train.jsonl` and `test.jsonl` as the data set `imdb` reads them.

    Reviews of the IMDB with more than `LONG` words, each text once, ordered by the SHA-256 of the
    text: the first ones of each class are tested on, the next ones trained on, half of either
    class. What is drawn depends on the texts alone.

    Args:
        file: CSV with the columns text, label (0 or 1) and source.
        folder: Where the two files go.
        train: Reviews to train on.
        test: Reviews to test on.

    Returns:
        The words of each test review by its id.

    Raises:
        ValueError: There are too few long reviews.
    """
    classes: dict[str, dict[str, str]] = {"0": {}, "1": {}}
    csv.field_size_limit(10**9)
    with open(file, encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            if row["source"] == "imdb" and len(row["text"].split()) > LONG:
                key = hashlib.sha256(row["text"].encode()).hexdigest()
                classes[row["label"]][key] = row["text"]
    parts: dict[str, list[dict[str, str]]] = {"test": [], "train": []}
    for label, texts in classes.items():
        if len(texts) < (train + test) // 2:
            raise ValueError(
                f"{file} has {len(texts)} long reviews of class {label}, {(train + test) // 2} "
                "are wanted"
            )
        keys = sorted(texts)
        for split, chosen in (
            ("test", keys[: test // 2]),
            ("train", keys[test // 2 : (test + train) // 2]),
        ):
            parts[split] += [{"id": key[:16], "text": texts[key], "label": label} for key in chosen]
    folder.mkdir(parents=True, exist_ok=True)
    for split, reviews in parts.items():
        lines = (json.dumps(review) + "\n" for review in sorted(reviews, key=lambda r: r["id"]))
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return {review["id"]: len(review["text"].split()) for review in parts["test"]}


class Judged(NamedTuple):
    """How a review was predicted.

    Attributes:
        right: Whether the likelier class is that of the review.
        loss: Nats.
    """

    right: bool
    loss: float


def judge(
    predictions: Iterable[Mapping[str, Any]], classes: Mapping[str, int]
) -> dict[str, Judged]:
    """Return how each review was predicted, by its id.

    Args:
        predictions: What `Classification` predicts: `id`, `label` and `scores`.
        classes: The class of each review.

    Raises:
        ValueError: A review has no prediction or two of them, or a prediction has no review.
    """
    judged: dict[str, Judged] = {}
    for one in predictions:
        name = one["id"]
        if name in judged or name not in classes:
            raise ValueError(f"predictions must be one for each review, got another of {name!r}")
        right = classes[name]
        judged[name] = Judged(one["label"] == right, -math.log(one["scores"][right]))
    if len(judged) != len(classes):
        raise ValueError(f"predictions must be of {len(classes)} reviews, got {len(judged)}")
    return judged


def accuracy(
    judged: Mapping[str, Judged], words: Mapping[str, int], more_than: int, at_most: int
) -> float:
    """Return the share that is right among the reviews of so many words.

    Raises:
        ValueError: There is no such review.
    """
    chosen = [one.right for name, one in judged.items() if more_than < words[name] <= at_most]
    if not chosen:
        raise ValueError(f"there is no review of more than {more_than} and at most {at_most} words")
    return sum(chosen) / len(chosen)
