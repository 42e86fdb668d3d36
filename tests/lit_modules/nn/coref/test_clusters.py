import math

import torch

from lit_modules.nn.coref.clusters import (
    decode_clusters,
    gold_clusters,
    marginal_loss,
    mention_loss,
)
from lit_modules.nn.coref.ranking import Ranking

SPANS = torch.tensor([[0, 1], [2, 2], [4, 5], [6, 6], [8, 9]])
ANTECEDENTS = torch.tensor([[0, 0], [0, 0], [1, 0], [2, 0], [3, 1]])
MASK = torch.tensor([[False, False], [True, False], [True, True], [True, True], [True, True]])


def ranking(scores: torch.Tensor) -> Ranking:
    return Ranking(SPANS, torch.zeros(5), ANTECEDENTS, MASK, scores.masked_fill(~MASK, -torch.inf))


def test_the_loss_is_the_marginal_of_all_right_antecedents() -> None:
    scores = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    mentions = torch.tensor([[0, 1], [4, 5], [6, 6], [7, 7], [8, 9]])
    clusters = torch.tensor([0, 0, 0, 1, 1])
    loss = marginal_loss(ranking(scores), mentions, clusters)
    # By hand: spans 0, 2 and 3 are one cluster; the only other mention of span 4 was not kept.
    right: list[list[int | None]] = [[None], [None], [0], [2, 0], [None]]
    expected = 0.0
    for at in range(5):
        by_antecedent: dict[int | None, float] = {None: 1.0}
        for column in range(2):
            if MASK[at, column]:
                value = math.exp(float(scores[at, column].detach()))
                by_antecedent[int(ANTECEDENTS[at, column])] = value
        chosen = sum(by_antecedent[other] for other in right[at])
        expected -= math.log(chosen / sum(by_antecedent.values()))
    assert math.isclose(float(loss.detach()), expected, rel_tol=1e-6)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert not scores.grad[~MASK].any()


def test_links_join_to_clusters() -> None:
    scores = torch.tensor([[0.0, 0], [1.0, 0], [-1.0, -2.0], [2.0, 3.0], [0.5, -1.0]])
    # 1 to 0, 2 to none, 3 to 0, 4 to 3: all but span 2.
    assert decode_clusters(ranking(scores)) == [[(0, 1), (2, 2), (6, 6), (8, 9)]]
    scores[3] = torch.tensor([3.0, 2.0])
    assert decode_clusters(ranking(scores)) == [[(0, 1), (2, 2)], [(4, 5), (6, 6), (8, 9)]]
    assert decode_clusters(ranking(-scores.abs())) == []


def test_gold_clusters_are_sorted() -> None:
    mentions = torch.tensor([[0, 0], [1, 2], [3, 3], [5, 5]])
    found = gold_clusters(mentions, torch.tensor([7, 2, 2, 7]))
    assert found == [[(0, 0), (5, 5)], [(1, 2), (3, 3)]]
    nothing = torch.zeros(0, dtype=torch.int64)
    assert gold_clusters(nothing.view(0, 2), nothing) == []


def test_mentions_are_taught_kept_or_not() -> None:
    scores = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0])
    made = ranking(torch.zeros(5, 2))._replace(mentions=scores, wanted=torch.tensor([0.5, 0.25]))
    found = mention_loss(made, torch.tensor([[0, 1], [7, 7]]))
    right = sum(math.log1p(math.exp(-s)) for s in (0.5, 0.25))
    wrong = sum(math.log1p(math.exp(s)) for s in (-1.0, 2.0, 0.0, 1.0))
    assert math.isclose(float(found), right + wrong, rel_tol=1e-6)


def test_a_span_without_a_link_is_a_cluster_of_its_own_where_it_is_a_mention() -> None:
    scores = torch.full((5, 2), -1.0)
    scores[2, 0] = 1.0
    found = ranking(scores)._replace(mentions=torch.tensor([3.0, -1.0, 2.0, -2.0, 0.5]))
    linked = decode_clusters(found)
    assert linked == [[(2, 2), (4, 5)]]
    assert decode_clusters(found, singletons=True) == [[(0, 1)], *linked, [(8, 9)]]
