"""Long reviews: split without a shared text, and judged one by one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from evidence.reviews import LONG, accuracy, judge, write_reviews
from tests.evidence.encoder_fakes import lines, reviews


def test_the_split_is_balanced_disjoint_and_long(tmp_path: Path) -> None:
    file = reviews(tmp_path / "reviews.csv", 6)
    words = write_reviews(file, tmp_path, train=8, test=4)
    parts = {name: lines(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    for name, many in (("train", 8), ("test", 4)):
        assert [review["label"] for review in parts[name]].count("1") == many // 2
        assert len(parts[name]) == many
        for review in parts[name]:
            assert len(review["text"].split()) > LONG
            assert not review["text"].startswith("elsewhere")
    texts = {name: {review["text"] for review in part} for name, part in parts.items()}
    assert texts["train"].isdisjoint(texts["test"])
    assert words == {review["id"]: len(review["text"].split()) for review in parts["test"]}
    with pytest.raises(ValueError, match="6 long reviews of class 0, 7 are wanted"):
        write_reviews(file, tmp_path, train=10, test=4)


def test_predictions_are_judged_by_review() -> None:
    classes, words = {"a": 1, "b": 0, "c": 1}, {"a": 10, "b": 20, "c": 30}
    predictions = [
        {"id": "a", "label": 1, "scores": [0.2, 0.8]},
        {"id": "b", "label": 1, "scores": [0.4, 0.6]},
        {"id": "c", "label": 1, "scores": [0.5, 0.5]},
    ]
    judged = judge(predictions, classes)
    assert [judged[name].loss for name in "abc"] == [-math.log(p) for p in (0.8, 0.4, 0.5)]
    assert accuracy(judged, words, 0, 30) == 2 / 3
    assert accuracy(judged, words, 10, 20) == 0
    assert accuracy(judged, words, 0, 10) == 1
    with pytest.raises(ValueError, match="more than 30 and at most 40"):
        accuracy(judged, words, 30, 40)
    with pytest.raises(ValueError, match="must be of 3 reviews, got 2"):
        judge(predictions[:2], classes)
    with pytest.raises(ValueError, match="another of 'a'"):
        judge([predictions[0], *predictions], classes)
