"""Gold clusters as a loss, and links as clusters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_modules.nn.coref.ranking import Ranking
from lit_modules.nn.precision import widened

__all__ = ["decode_clusters", "gold_clusters", "marginal_loss", "mention_loss"]

Clusters = list[list[tuple[int, int]]]


def marginal_loss(ranking: Ranking, mentions: Tensor, clusters: Tensor) -> Tensor:
    """Return the negative marginal log-likelihood of all correct antecedents, in nats.

    The correct antecedents of a kept span are those of its gold cluster; if none is kept,
    "refers to none" is correct (Lee et al. 2017, section 4).

    Args:
        ranking: The output of the head.
        mentions: int64 (M, 2), gold mentions, first and last word.
        clusters: int64 (M,), the cluster of each.

    Returns:
        (), the sum over the kept spans.
    """
    number = _cluster_of(ranking.spans, mentions, clusters)
    theirs = number[ranking.antecedents]
    right = (theirs == number[:, None]) & (number >= 0)[:, None] & ranking.mask
    none = ~right.any(1, keepdim=True)
    scores = torch.cat((ranking.scores.new_zeros(len(number), 1), ranking.scores), dim=1)
    scores = widened(scores)
    gold = scores.masked_fill(~torch.cat((none, right), dim=1), -torch.inf)
    return (scores.logsumexp(1) - gold.logsumexp(1)).sum()


def mention_loss(ranking: Ranking, mentions: Tensor) -> Tensor:
    """Return the binary cross-entropy of mention scores, in nats, (): kept spans, and all gold.

    Without this loss, a gold mention that was not kept gets no gradient, and an antecedent that was
    not kept trains its mentions to refer to none: if many are missing at first, training may
    converge to keeping none.

    Args:
        ranking: The output of the head; `wanted` are the scores of the gold mentions.
        mentions: int64 (M, 2), gold mentions.
    """
    assert ranking.wanted is not None
    gold = {tuple(span) for span in mentions.tolist()}
    found = [tuple(span) not in gold for span in ranking.spans.tolist()]
    wrong = torch.tensor(found, dtype=torch.bool, device=ranking.mentions.device)
    others = ranking.mentions[wrong]
    return F.softplus(-widened(ranking.wanted)).sum() + F.softplus(widened(others)).sum()


def _cluster_of(spans: Tensor, mentions: Tensor, clusters: Tensor) -> Tensor:
    """Return the gold cluster of each span, int64 (K,); -1 for none."""
    known = {
        tuple(mention): cluster
        for mention, cluster in zip(mentions.tolist(), clusters.tolist(), strict=True)
    }
    numbers = [known.get(tuple(span), -1) for span in spans.tolist()]
    return torch.tensor(numbers, dtype=torch.int64, device=spans.device)


def decode_clusters(ranking: Ranking, singletons: bool = False) -> Clusters:
    """Link each span to its best antecedent, where that scores above 0, and join the links.

    Args:
        ranking: The output of the head.
        singletons: Whether a span without a link is a cluster of its own, where its score as a
            mention is above 0.

    Returns:
        Clusters of spans (first word, last word), each in order; of at least two spans each unless
        `singletons`.
    """
    spans = [(first, last) for first, last in ranking.spans.tolist()]
    if ranking.scores.numel() == 0:
        return []
    score, column = ranking.scores.max(1)
    best = ranking.antecedents.gather(1, column[:, None])[:, 0]
    cluster_of: dict[int, list[tuple[int, int]]] = {}
    for span, (other, linked) in enumerate(zip(best.tolist(), (score > 0).tolist(), strict=True)):
        if not linked:
            continue
        # An antecedent comes earlier, so its cluster is already known.
        cluster = cluster_of.setdefault(other, [spans[other]])
        cluster.append(spans[span])
        cluster_of[span] = cluster
    if singletons:
        for span, is_mention in enumerate((ranking.mentions > 0).tolist()):
            if is_mention:
                cluster_of.setdefault(span, [spans[span]])
    different = {id(cluster): cluster for cluster in cluster_of.values()}
    return sorted(sorted(cluster) for cluster in different.values())


def gold_clusters(mentions: Tensor, clusters: Tensor) -> Clusters:
    """Return gold mentions (M, 2) by cluster (M,), each in order."""
    found: dict[int, list[tuple[int, int]]] = {}
    for (first, last), cluster in zip(mentions.tolist(), clusters.tolist(), strict=True):
        found.setdefault(cluster, []).append((first, last))
    return sorted(sorted(cluster) for cluster in found.values())
