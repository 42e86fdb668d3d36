"""Exact match and F1: aliases, no-answer, thresholds, and questions asked of several documents."""

import math
import random

import pytest
import torch

from lit_modules.metrics import AnswerScore


def values(metric):
    return {name: float(value) for name, value in metric.compute().items()}


def score(predictions, answers, rules="squad", no_answer=False, **more):
    metric = AnswerScore(rules, no_answer)
    metric.update(predictions, answers, **more)
    return values(metric)


def test_the_best_of_all_accepted_answers_counts():
    found = score(
        ["the big apple", "Paris, France", "nothing"],
        [["New York", "Big Apple"], ["Lyon", "Paris"], ["x", "y"]],
    )
    assert found == {
        "exact_match": pytest.approx(1 / 3),
        "f1": pytest.approx((1 + 2 / 3 + 0) / 3),
    }


def test_the_rules_differ():
    predictions, answers = ["Tom_Hanks", "well-known"], [["Tom Hanks"], ["wellknown"]]
    assert score(predictions, answers)["exact_match"] == 0.5
    assert score(predictions[:1], answers[:1], "triviaqa") == {"exact_match": 1, "f1": 1}
    assert score(predictions[1:], answers[1:], "triviaqa") == {"exact_match": 0, "f1": 0}


def test_without_unanswerable_questions_an_article_is_an_exact_match_without_words():
    # The first version's script: equal strings, and no word in common.
    assert score(["the"], [["a"]]) == {"exact_match": 1, "f1": 0}


def test_unanswerable_questions_are_right_when_empty_and_told_apart():
    found = score(
        ["", "x", "the", "y", "y z", ""],
        [[], [], [], ["y"], ["y"], ["y"]],
        no_answer=True,
    )
    assert found == {
        "exact_match": 0.5,
        "f1": pytest.approx((1 + 0 + 1 + 1 + 2 / 3 + 0) / 6),
        "has_answer_exact_match": pytest.approx(1 / 3),
        "has_answer_f1": pytest.approx((1 + 2 / 3) / 3),
        "no_answer_exact_match": pytest.approx(2 / 3),
        "no_answer_f1": pytest.approx(2 / 3),
    }


def test_accepted_answers_without_a_word_do_not_count_where_there_may_be_none():
    found = score(["the", "y"], [["a"], ["the", "y"]], no_answer=True)
    assert found["no_answer_exact_match"] == 1
    assert found["has_answer_exact_match"] == 1
    assert score(["the"], [["the", "y"]], no_answer=True)["f1"] == 0


def test_no_prediction_scores_nothing():
    found = score([None, None, "x"], [["x"], [], ["x"]], no_answer=True)
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["no_answer_f1"] == 0


def test_a_question_without_answer_is_refused_where_all_must_have_one():
    with pytest.raises(ValueError, match="no accepted answer; allow it by no_answer"):
        score(["x"], [[]])


def test_the_best_threshold_by_hand():
    # Sorted by no-answer score: right (+1), wrong on unanswerable (-1), half right (+1/2 of F1),
    # unanswerable without an answer (0). Starting from 2 unanswerable ones that are right.
    found = score(
        ["y", "x", "y z w", ""],
        [["y"], [], ["y"], []],
        no_answer=True,
        no_answer_scores=[0.1, 0.2, 0.3, 0.9],
    )
    assert found["best_exact_match"] == pytest.approx(3 / 4)
    assert found["best_exact_match_threshold"] == pytest.approx(0.1)
    assert found["best_f1"] == pytest.approx(3 / 4)
    assert found["best_f1_threshold"] == pytest.approx(0.1)


def test_best_thresholds_against_trying_all_of_them():
    rng = random.Random(0)
    answers = [rng.choice([[], ["x"], ["x y"]]) for _ in range(60)]
    predictions = [rng.choice(["x", "x y", "z", ""]) for _ in answers]
    scores = [rng.randrange(8) / 8 for _ in answers]  # many are equal
    found = score(predictions, answers, no_answer=True, no_answer_scores=scores)
    tried = []
    for threshold in [-1.0, *sorted(set(scores))]:
        kept = [p if s <= threshold else "" for p, s in zip(predictions, scores, strict=True)]
        tried.append(score(kept, answers, no_answer=True))
    for name in ("exact_match", "f1"):
        assert found[f"best_{name}"] == pytest.approx(max(t[name] for t in tried), abs=1e-6)
        threshold = found[f"best_{name}_threshold"]
        kept = [p if s <= threshold else "" for p, s in zip(predictions, scores, strict=True)]
        again = score(kept, answers, no_answer=True)[name]
        assert again == pytest.approx(found[f"best_{name}"], abs=1e-6)


def test_of_a_question_on_several_documents_the_highest_score_counts():
    metric = AnswerScore("triviaqa")
    gold = [["x"], ["x"]]
    metric.update(["x", "y"], gold, questions=["1", "1"], scores=[2.0, 1.0])
    metric.update(["y", "x"], [["x"], ["x"]], questions=["2", "1"], scores=[5.0, -1.0])
    metric.update(["x"], [["x"]], questions=["2"], scores=[4.0])
    assert values(metric) == {"exact_match": 0.5, "f1": 0.5}


@pytest.mark.parametrize("order", [1, -1])
def test_of_equal_scores_the_worse_counts_in_any_order(order):
    metric = AnswerScore()
    for prediction in ["x", "x z", "w"][::order]:
        metric.update([prediction], [["x"]], questions=["1"], scores=[0.0])
    assert values(metric) == {"exact_match": 0, "f1": 0}


def test_merging_equals_one_update():
    rng = random.Random(0)
    n = 50
    predictions = [rng.choice(["x", "x y", "z", None]) for _ in range(n)]
    answers = [rng.choice([["x"], ["x y", "q"]]) for _ in range(n)]
    questions = [str(rng.randrange(20)) for _ in range(n)]
    gold = {q: a for q, a in zip(questions, answers, strict=True)}
    answers = [gold[q] for q in questions]
    scores = [rng.random() for _ in range(n)]
    whole, parts = AnswerScore(), [AnswerScore(), AnswerScore()]
    whole.update(predictions, answers, questions=questions, scores=scores)
    for at in range(n):
        parts[at % 2].update(
            [predictions[at]], [answers[at]], questions=[questions[at]], scores=[scores[at]]
        )
    parts[0].merge_state(parts[1])
    assert values(parts[0]) == values(whole)


def test_nothing_scored_is_nan():
    assert all(math.isnan(value) for value in score([], []).values())


def test_casting_the_model_does_not_touch_what_is_kept():
    model = torch.nn.ModuleDict({"answers": AnswerScore()})
    model.bfloat16()
    model["answers"].update(["x"], [["x"]], questions=["1"], scores=[1 / 3])
    assert model["answers"].rows[0].dtype == torch.float64
    assert float(model["answers"].compute()["f1"]) == 1


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"answers": [["x"]]}, "answers must be 2, one a prediction, got 1"),
        ({"questions": ["1", "2"]}, "questions and scores must be given together"),
        ({"scores": [1.0, 2.0]}, "questions and scores must be given together"),
        ({"questions": ["1"], "scores": [0.0, 0.0]}, "questions must be 2, .* got 1"),
        ({"no_answer_scores": []}, "no_answer_scores must be 2, .* got 0"),
    ],
)
def test_incomplete_arguments_are_refused(more, match):
    with pytest.raises(ValueError, match=match):
        AnswerScore().update(["x", "y"], **{"answers": [["x"], ["y"]], **more})


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match="rules must be squad or triviaqa, got 'hotpot'"):
        AnswerScore("hotpot")
