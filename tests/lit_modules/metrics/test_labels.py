"""Accuracy is over examples, F1 is that of class 1 or the mean over classes."""

import pytest
import torch

from lit_modules.metrics import CandidateAccuracy, classification_metrics


def values(classes, predictions, labels):
    metrics = classification_metrics(classes)
    for metric in metrics.values():
        metric.update(torch.tensor(predictions), torch.tensor(labels))
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def test_accuracy_weighs_examples_not_classes():
    found = values(3, [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 2])
    assert found["accuracy"] == pytest.approx(4 / 6)
    # Class 0: precision 4/6, recall 1; the others are never right.
    assert found["macro_f1"] == found["f1"] == pytest.approx(0.8 / 3)


def test_two_classes_have_the_f1_of_class_1():
    found = values(2, [1, 1, 0, 0], [1, 0, 1, 0])
    assert found == {"accuracy": 0.5, "f1": 0.5, "macro_f1": 0.5}
    found = values(2, [1, 1, 1, 0], [1, 0, 0, 0])
    assert found["f1"] == pytest.approx(2 * 1 / (2 * 1 + 2))
    assert found["macro_f1"] == pytest.approx((0.5 + 0.5) / 2)
    found = values(2, [0, 0, 0, 1], [0, 0, 0, 0])
    assert found["f1"] == 0
    assert found["macro_f1"] == pytest.approx(6 / 7 / 2)


@pytest.mark.parametrize("classes", [2, 4])
def test_unknown_labels_are_not_scored(classes):
    with_unknown = values(classes, [1, 0, 1, 1], [1, 0, -1, 0])
    assert with_unknown == values(classes, [1, 0, 1], [1, 0, 0])


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="classes must be >= 2, got 1"):
        classification_metrics(1)


def test_candidates_may_be_of_any_number():
    metric = CandidateAccuracy()
    metric.update(torch.tensor([3]), torch.tensor([3]))
    metric.update(torch.tensor([70, 1, 0]), torch.tensor([70, 2, -1]))
    metric.update(torch.tensor([5]), torch.tensor([-1]))
    assert float(metric.compute()) == pytest.approx(2 / 3)
