"""Coreference scores against the scorer's paper, its published test cases and cases by hand."""

import builtins
import itertools
import random

import pytest
import torch

from lit_modules.metrics import CoreferenceScore

pytest.importorskip("scipy")


def clusters(text):
    """`"ab c"` is two clusters, of the mentions a, b and of c."""
    return [[(ord(letter), ord(letter) + 1) for letter in word] for word in text.split()]


def score(response, key):
    metric = CoreferenceScore()
    metric.update(clusters(response), clusters(key))
    return {name: float(value) for name, value in metric.compute().items()}


def f1(recall, precision):
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


# Recall and precision that the scorer's own test suite expects; key and response spelled out, with
# capital B for a mention that overlaps b without being it. None is not told there.
PUBLISHED = {
    "A1": ("a bc def", "a bc def", (1, 1), (1, 1), (1, 1)),
    "A2": ("a bc def", "a de", (1 / 3, 1), (7 / 18, 1), (0.6, 0.9)),
    "A3": ("a bc def", "a bcx defy z", (1, 3 / 5), (1, 55 / 108), (93 / 105, 93 / 140)),
    "A4": ("a bc def", "a bcx dy z", (1 / 3, 1 / 3), (5 / 9, 17 / 42), (11 / 15, 0.55)),
    "A5": ("a bc def", "a bcxB dy z", (1 / 3, 1 / 4), (5 / 9, 5 / 16), (31 / 45, 31 / 60)),
    "A6": ("a bc def", "a bcx dy Bz", (1 / 3, 1 / 4), (5 / 9, 17 / 48), (11 / 15, 0.55)),
    "A10": ("a bc def", "a b c d e f", (0, 0), (1 / 2, 1), None),
    "A11": ("a bc def", "abcdef", (1, 3 / 5), (1, 14 / 36), None),
    "A12": ("a bc def", "a b d e x y z", (0, 0), (13 / 36, 4 / 7), None),
    "A13": ("a bc def", "abdexyz", (1 / 3, 1 / 6), (17 / 36, 6 / 49), None),
    "D1": ("abcde fg hijkl", "abcde fghijkl", (1, 9 / 10), (1, 16 / 21), None),
    "E1": ("abcde fg hijkl", "abcdehijkl fg", (1, 9 / 10), (1, 7 / 12), None),
    "F1": ("abcd", "ab cd", (2 / 3, 1), None, None),
    "G1": ("ab cd", "abcd", (1, 2 / 3), None, None),
    "K1": ("bcdeghj", "abc def ghi", (3 / 6, 3 / 6), None, None),
    "L1": ("abc defg", "ab cd fgh", (2 / 5, 2 / 4), None, None),
    "M1": ("abcdef", "abcdef", (1, 1), (1, 1), (1, 1)),
    "M2": ("abcdef", "a b c d e f", (0, 0), None, None),
    "M5": ("abcdef", "u v w x y z", (0, 0), None, None),
    "N1": ("a b c d e f", "a b c d e f", (0, 0), (1, 1), (1, 1)),
    "N2": ("a b c d e f", "abcdef", (0, 0), None, None),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_the_published_cases(case):
    key, response, *expected = PUBLISHED[case]
    found = score(response, key)
    for measure, values in zip(("muc", "b_cubed", "ceaf_phi4"), expected, strict=True):
        if values is not None:
            recall, precision = values
            assert found[f"{measure}_recall"] == pytest.approx(recall, abs=1e-6)
            assert found[f"{measure}_precision"] == pytest.approx(precision, abs=1e-6)
            assert found[f"{measure}_f1"] == pytest.approx(f1(recall, precision), abs=1e-6)


def test_the_example_of_the_scorers_paper():
    found = score("ab cd fghi", "abc defg")
    expected = {
        "mention": (6 / 8, 6 / 7),
        "muc": (2 / 5, 2 / 5),
        "b_cubed": (4 / 8, (4 / 3 + 1 / 3 + 1 / 4 + 1) / 7),
        "ceaf_phi4": (1.3 / 3, 1.3 / 2),
    }
    for measure, (precision, recall) in expected.items():
        assert found[f"{measure}_precision"] == pytest.approx(precision, abs=1e-6)
        assert found[f"{measure}_recall"] == pytest.approx(recall, abs=1e-6)
        assert found[f"{measure}_f1"] == pytest.approx(f1(recall, precision), abs=1e-6)
    # As they are printed in the paper, rounded down in one place.
    printed = {"muc": 0.40, "b_cubed": 0.46, "ceaf_phi4": 0.52}
    for measure, value in printed.items():
        assert found[f"{measure}_f1"] == pytest.approx(value, abs=0.006)
    average = sum(found[f"{measure}_f1"] for measure in printed) / 3
    assert found["average_f1"] == pytest.approx(average, abs=1e-6)
    assert len(found) == 13


def test_exchanging_the_sides_exchanges_precision_and_recall():
    one, other = score("abx cd yz", "abc de"), score("abc de", "abx cd yz")
    for name, value in one.items():
        if name.endswith("precision"):
            assert value == other[name.replace("precision", "recall")]
        elif name.endswith("f1"):
            assert value == pytest.approx(other[name], abs=1e-7)


@pytest.mark.parametrize(("response", "key"), [("", "ab"), ("ab", ""), ("", "")])
def test_an_empty_side_scores_nothing(response, key):
    assert set(score(response, key).values()) == {0.0}


def test_documents_are_added_before_they_are_divided():
    metric = CoreferenceScore()
    metric.update(clusters("abcd"), clusters("abcd"))  # 3 of 3 links
    metric.update(clusters("ab"), clusters("ac"))  # 0 of 1
    metric.update([], clusters("xy"))  # 0 of 1, nothing predicted
    found = metric.compute()
    assert float(found["muc_recall"]) == pytest.approx(3 / 5)
    assert float(found["muc_precision"]) == pytest.approx(3 / 4)
    assert float(found["b_cubed_recall"]) == pytest.approx((4 + 1 / 2) / 8)
    assert float(found["ceaf_phi4_precision"]) == pytest.approx((1 + 0.5) / 2)
    assert float(found["mention_precision"]) == pytest.approx(5 / 6)


def test_the_same_spans_of_two_documents_are_different_mentions():
    metric = CoreferenceScore()
    for _ in range(2):
        metric.update(clusters("ab"), clusters("ab"))
    assert float(metric.compute()["average_f1"]) == 1


def test_ceaf_takes_the_best_alignment_not_the_greedy_one():
    key, response = clusters("abcd efg"), clusters("abce dfgh")
    phi = [[2 * len({*k} & {*r}) / (len(k) + len(r)) for r in response] for k in key]
    best = max(
        sum(phi[k][r] for k, r in enumerate(order))
        for order in itertools.permutations(range(len(response)))
    )
    metric = CoreferenceScore()
    metric.update(response, key)
    assert float(metric.compute()["ceaf_phi4_recall"]) == pytest.approx(best / 2)


def partition(mentions, rng):
    parts = [[] for _ in range(rng.randint(1, len(mentions)))]
    for mention in mentions:
        rng.choice(parts).append((mention, mention))
    return [part for part in parts if part]


def slowly(key, response):
    """The definitions, read from the paper word by word, for recall."""
    where = {m: frozenset(c) for c in response for m in c}
    partitions = [len({where.get(m, m) for m in c}) for c in key]
    muc = (sum(len(c) - p for c, p in zip(key, partitions, strict=True)), sum(map(len, key)))
    muc = (muc[0], muc[1] - len(key))
    per_mention = [len({*c} & where.get(m, frozenset())) / len(c) for c in key for m in c]
    smaller, larger = sorted((key, response), key=len)
    aligned = max(
        sum(2 * len({*a} & {*b}) / (len(a) + len(b)) for a, b in zip(smaller, order, strict=True))
        for order in itertools.permutations(larger, len(smaller))
    )
    return {
        "muc": muc,
        "b_cubed": (sum(per_mention), len(per_mention)),
        "ceaf_phi4": (aligned, len(key)),
    }


@pytest.mark.parametrize("seed", range(30))
def test_random_partitions_against_the_definitions(seed):
    rng = random.Random(seed)
    documents = [
        tuple(partition(rng.sample(range(9), rng.randint(1, 6)), rng) for _ in range(2))
        for _ in range(3)
    ]
    metric = CoreferenceScore()
    for response, key in documents:
        metric.update(response, key)
    found = metric.compute()
    for part, pairs in (
        ("recall", [slowly(key, response) for response, key in documents]),
        ("precision", [slowly(response, key) for response, key in documents]),
    ):
        for measure in ("muc", "b_cubed", "ceaf_phi4"):
            over, under = (sum(pair[measure][side] for pair in pairs) for side in (0, 1))
            expected = over / under if under else 0.0
            assert float(found[f"{measure}_{part}"]) == pytest.approx(expected, abs=1e-6)


def test_merging_adds_documents():
    documents = [("ab cd", "abc de"), ("xyz", "xy"), ("a", "a"), ("", "pq")]
    whole, parts = CoreferenceScore(), [CoreferenceScore(), CoreferenceScore()]
    for at, (response, key) in enumerate(documents):
        whole.update(clusters(response), clusters(key))
        parts[at % 2].update(clusters(response), clusters(key))
    parts[0].merge_state(parts[1])
    torch.testing.assert_close(parts[0].sums, whole.sums, rtol=0, atol=1e-15)


def test_resetting_forgets():
    metric = CoreferenceScore()
    metric.update([], clusters("ab"))
    metric.reset()
    metric.update(clusters("ab"), clusters("ab"))
    assert float(metric.compute()["average_f1"]) == 1


def test_lists_and_tensors_serve_as_spans():
    metric = CoreferenceScore()
    metric.update([torch.tensor([[3, 4], [7, 7]])], [[[3, 4], (7, 7)]])
    assert float(metric.compute()["average_f1"]) == 1


@pytest.mark.parametrize(
    ("side", "given", "match"),
    [
        ("gold", [[(1, 2)], [(1, 2)]], r"gold: mention \(1, 2\) is in clusters 0 and 1"),
        ("predicted", [[(1, 2), (1, 2)]], r"predicted: mention \(1, 2\) is twice in cluster 0"),
        ("predicted", [[(3, 2)]], r"predicted: .* first <= last, got \(3, 2\) in cluster 0"),
        ("gold", [[(1, 1)], [(-1, 2)]], r"gold: .* got \(-1, 2\) in cluster 1"),
        ("gold", [[(1, 2, 3)]], r"gold: .* got \(1, 2, 3\)"),
        ("predicted", [[5]], "predicted: .* got 5"),
    ],
)
def test_what_is_no_clustering_is_refused(side, given, match):
    arguments = {"predicted": [], "gold": [], side: given}
    with pytest.raises(ValueError, match=match):
        CoreferenceScore().update(**arguments)


def test_a_missing_library_names_its_extra(monkeypatch):
    real = builtins.__import__

    def without_scipy(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ModuleNotFoundError("No module named 'scipy'", name="scipy")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(ModuleNotFoundError, match=r"needs scipy: install .* extra `tasks`"):
        CoreferenceScore().update(clusters("ab"), clusters("ab"))


def test_without_singletons_links_alone_decide():
    key, response = "a b cd efg", "cd efg"
    assert score(response, key)["average_f1"] < 0.9
    metric = CoreferenceScore(singletons=False)
    # Those that are predicted all the same are left out, too.
    for predicted in (response, response + " a h"):
        metric.update(clusters(predicted), clusters(key))
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found.pop("gold_singletons_left_out") == 4
    assert set(found.values()) == {1.0}
    metric.update(clusters("cde fg"), clusters(key))
    assert metric.compute()["average_f1"] < 1
    assert "gold_singletons_left_out" not in score(response, key)
