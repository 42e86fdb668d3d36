"""Coreference as the CoNLL-2011 and 2012 shared tasks score it: MUC, B-cubed and CEAF-phi4.

The definitions are those of Pradhan et al. 2014, "Scoring Coreference Partitions of Predicted
Mentions". A mention is an exact span; key K are the gold clusters, response R the predicted ones.

    MUC        links: sum(|K| - parts of K by R) / sum(|K| - 1)
    B-cubed    mentions: sum(|K & R|^2 / |K|) / sum(|K|)
    CEAF-phi4  clusters: best one-to-one sum(2 |K & R| / (|K| + |R|)) / number of clusters

each formula is that of recall; for precision K and R are exchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_modules.metrics.exact import ExactMetric
from lit_modules.nn.precision import figure_dtype

__all__ = ["CoreferenceScore", "Mention"]

Mention = tuple[int, int]
"""First and last token of a mention, inclusive."""

_MEASURES = ("mention", "muc", "b_cubed", "ceaf_phi4")
_AVERAGED = ("muc", "b_cubed", "ceaf_phi4")

# Of a measure: (numerator, denominator) of precision, then of recall.
_Sums = tuple[tuple[float, float], tuple[float, float]]


class CoreferenceScore(ExactMetric):
    """MUC, B-cubed, CEAF-phi4 and the average of their F1, over all documents together.

    Numerators and denominators are added over documents before they are divided, as the shared
    tasks' scorer does.

    Args:
        singletons: Whether clusters of one mention are scored. A model that only links mentions
            cannot predict them: where they are left out of both sides, links alone decide, and
            `gold_singletons_left_out` tells how many there were.
    """

    higher_is_better = True
    sums: Tensor
    left_out: Tensor

    def __init__(self, singletons: bool = True) -> None:
        super().__init__()
        self.singletons = singletons
        self.add_sum("sums", (len(_MEASURES), 2, 2))
        self.add_count("left_out")

    def update(
        self,
        predicted: Iterable[Iterable[Sequence[int]]],
        gold: Iterable[Iterable[Sequence[int]]],
    ) -> None:
        """Add a document.

        Args:
            predicted: Clusters, each a list of mentions, each (first, last) token, inclusive.
            gold: The same of the key.

        Raises:
            ValueError: A mention is no span, or is there twice.
            ModuleNotFoundError: scipy is not installed.
        """
        key, response = _read(gold, "gold"), _read(predicted, "predicted")
        if not self.singletons:
            self.add("left_out", sum(len(cluster) == 1 for cluster in key))
            key, response = ([c for c in side if len(c) > 1] for side in (key, response))
        found = _score(key, response)
        self.add("sums", torch.tensor(found, dtype=torch.float64, device="cpu"))

    def compute(self) -> dict[str, Tensor]:
        """Return `muc_f1`, `muc_precision`, `muc_recall` and so on, and `average_f1`, in 0 to 1.

        The others are `b_cubed` and `ceaf_phi4`, and `mention` for finding the spans, whatever
        their clusters. What has nothing to divide by is 0. Without singletons there is also
        `gold_singletons_left_out`, a count of clusters.
        """
        over, under = self.total("sums").unbind(-1)
        precision, recall = torch.where(under > 0, over / under, 0.0).unbind(-1)
        both = precision + recall
        f1 = torch.where(both > 0, 2 * precision * recall / both, 0.0)
        parts = {"precision": precision, "recall": recall, "f1": f1}
        values = {
            f"{measure}_{part}": value[at]
            for at, measure in enumerate(_MEASURES)
            for part, value in parts.items()
        }
        values["average_f1"] = torch.stack([values[f"{m}_f1"] for m in _AVERAGED]).mean()
        if not self.singletons:
            values["gold_singletons_left_out"] = self.left_out
        return {name: v.to(figure_dtype()) for name, v in values.items()}


def _read(clusters: Iterable[Iterable[Sequence[int]]], side: str) -> list[list[Mention]]:
    """Return clusters as lists of pairs, checked, without empty ones."""
    read: list[list[Mention]] = []
    seen: dict[Mention, int] = {}
    for number, cluster in enumerate(clusters):
        read.append([])
        for mention in cluster:
            span = _span(mention, side, number)
            if span in seen:
                where = (
                    f"twice in cluster {number}"
                    if seen[span] == number
                    else f"in clusters {seen[span]} and {number}"
                )
                raise ValueError(f"{side}: mention {span} is {where}; it must be in one, once")
            seen[span] = number
            read[-1].append(span)
    return [cluster for cluster in read if cluster]


def _span(mention: Sequence[int], side: str, number: int) -> Mention:
    try:
        start, end = (int(place) for place in mention)
    except (TypeError, ValueError):
        start, end = 0, -1
    if not 0 <= start <= end:
        raise ValueError(
            f"{side}: a mention must be (first, last) with 0 <= first <= last, "
            f"got {mention!r} in cluster {number}"
        )
    return start, end


def _score(key: list[list[Mention]], response: list[list[Mention]]) -> tuple[_Sums, ...]:
    """Return what one document adds to each measure, in the order of `_MEASURES`."""
    place = {mention: at for at, cluster in enumerate(response) for mention in cluster}
    shared: Counter[tuple[int, int]] = Counter(
        (at, place[mention])
        for at, cluster in enumerate(key)
        for mention in cluster
        if mention in place
    )
    swapped = Counter({(r, k): n for (k, r), n in shared.items()})
    key_sizes, response_sizes = [*map(len, key)], [*map(len, response)]
    aligned = _aligned(shared, key_sizes, response_sizes)
    return (
        (
            (shared.total(), sum(response_sizes)),
            (shared.total(), sum(key_sizes)),
        ),
        (_muc(swapped, response_sizes), _muc(shared, key_sizes)),
        (_b_cubed(swapped, response_sizes), _b_cubed(shared, key_sizes)),
        ((aligned, len(response)), (aligned, len(key))),
    )


def _muc(shared: Counter[tuple[int, int]], sizes: list[int]) -> tuple[float, float]:
    """Return links kept and links of the clusters whose numbers come first in `shared`."""
    # A mention that the other side lacks is a separate part.
    parts = [size for size in sizes]
    for (at, _), n in shared.items():
        parts[at] -= n - 1
    return sum(sizes) - sum(parts), sum(sizes) - len(sizes)


def _b_cubed(shared: Counter[tuple[int, int]], sizes: list[int]) -> tuple[float, float]:
    return sum(n * n / sizes[at] for (at, _), n in shared.items()), sum(sizes)


def _aligned(
    shared: Counter[tuple[int, int]], key_sizes: list[int], response_sizes: list[int]
) -> float:
    """Return the sum of phi4 over the best one-to-one alignment of clusters."""
    if not shared:
        return 0.0
    similarity: Any = torch.zeros(
        len(key_sizes), len(response_sizes), dtype=torch.float64, device="cpu"
    )
    for (k, r), n in shared.items():
        similarity[k, r] = 2 * n / (key_sizes[k] + response_sizes[r])
    rows, columns = _assignment()(similarity.numpy(), maximize=True)
    return float(similarity[rows, columns].sum())


def _assignment() -> Any:
    try:
        from scipy.optimize import linear_sum_assignment
    except ModuleNotFoundError as error:
        if error.name != "scipy":
            raise
        raise ModuleNotFoundError(
            "CEAF needs scipy: install sparse-patterns with the extra `tasks`", name="scipy"
        ) from error
    return linear_sum_assignment
