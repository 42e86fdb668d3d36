"""HotpotQA: answer, support and both, by hand."""

import math

import pytest
import torch

from lit_modules.metrics import HotpotScore

GOLD = [("A", 0), ("B", 2)]


def score(answer, facts, gold_answer="x y", gold_facts=GOLD):
    metric = HotpotScore()
    metric.update([answer], [facts], [gold_answer], [gold_facts])
    return {name: float(value) for name, value in metric.compute().items()}


def test_all_right():
    assert set(score("the X y.", [["B", 2], ["A", 0], ["A", 0]]).values()) == {1.0}


def test_joint_numbers_are_products_of_precisions_and_recalls():
    found = score("x z w", [("A", 0), ("C", 1), ("B", 1), ("B", 2)])
    precision, recall = (1 / 3) * (2 / 4), (1 / 2) * (2 / 2)
    expected = {
        "answer": (0, 2 / 5, 1 / 3, 1 / 2),
        "support": (0, 2 / 3, 1 / 2, 1),
        "joint": (0, 2 * precision * recall / (precision + recall), precision, recall),
    }
    for part, numbers in expected.items():
        names = ("exact_match", "f1", "precision", "recall")
        for name, number in zip(names, numbers, strict=True):
            assert found[f"{part}_{name}"] == pytest.approx(number, abs=1e-6)
    assert len(found) == 12


def test_exact_match_of_both_needs_both():
    assert score("x y", [("A", 0)])["joint_exact_match"] == 0
    assert score("x", GOLD)["joint_exact_match"] == 0
    assert score("x", GOLD)["support_exact_match"] == 1


@pytest.mark.parametrize(
    ("answer", "gold", "f1"),
    [
        ("yes", "yes", 1),
        ("yes", "yes sir", 0),
        ("yes sir", "yes", 0),
        ("no", "no man", 0),
        ("noanswer", "noanswer x", 0),
        ("yes sir", "yes man", 0.5),
    ],
)
def test_yes_and_no_are_never_partly_right(answer, gold, f1):
    assert score(answer, GOLD, gold)["answer_f1"] == f1


def test_no_prediction_scores_nothing_and_an_empty_one_is_compared():
    missing = score(None, GOLD)
    assert missing["answer_f1"] == missing["joint_f1"] == 0
    assert missing["support_f1"] == 1
    assert score("x y", None)["support_exact_match"] == 0
    nothing = score("x y", [], gold_facts=[])
    assert nothing["support_exact_match"] == 1
    assert nothing["support_f1"] == 0


def test_merging_equals_one_update():
    cases = [("x", GOLD), ("x y", [("A", 0)]), (None, None), ("q", [])]
    whole, parts = HotpotScore(), [HotpotScore(), HotpotScore()]
    answers, facts = zip(*cases, strict=True)
    whole.update(answers, facts, ["x y"] * 4, [GOLD] * 4)
    whole.update([], [], [], [])
    for at, (answer, said) in enumerate(cases):
        parts[at % 2].update([answer], [said], ["x y"], [GOLD])
    parts[0].merge_state(parts[1])
    torch.testing.assert_close(parts[0].sums, whole.sums, rtol=0, atol=1e-15)
    assert int(parts[0].count) == int(whole.count) == 4


def test_nothing_scored_is_nan():
    metric = HotpotScore()
    metric.update([], [], [], [])
    assert all(math.isnan(value) for value in metric.compute().values())


def test_different_lengths_are_refused():
    with pytest.raises(ValueError, match="must be equally many, got 1, 1, 2, 1"):
        HotpotScore().update(["x"], [GOLD], ["x", "y"], [GOLD])
