"""Evidence of a multi-hop answer: losses of sentences and paragraphs, and the choice of both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from lit_modules.nn.precision import widened

__all__ = ["Evidence", "choose_evidence", "masked_bce"]

PARAGRAPHS = 2
"""A question of HotpotQA needs exactly two paragraphs."""


class Evidence(NamedTuple):
    """What was chosen.

    Attributes:
        paragraphs: Every paragraph, the best first; evidence is in the first two.
        sentences: The sentences of the evidence, in order of the text.
    """

    paragraphs: list[int]
    sentences: list[int]


def masked_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of each row, in nats; 0 where no label is known.

    Args:
        logits: `(rows, n)`.
        labels: int64 `(rows, n)`: 1 evidence, 0 not, -1 unknown or padding.
    """
    known = labels >= 0
    wide = widened(logits)
    losses = F.binary_cross_entropy_with_logits(
        wide, labels.clamp(min=0).to(wide.dtype), reduction="none"
    )
    return losses.masked_fill(~known, 0).sum(1) / known.sum(1).clamp(min=1)


def choose_evidence(
    sentences: Sequence[float], paragraphs: Sequence[float], owner: Sequence[int]
) -> Evidence:
    """Choose sentences from exactly two paragraphs (Groeneveld et al. 2020).

    A paragraph's score is its own logit plus that of its best sentence. Of the two best paragraphs
    every sentence with a positive logit is evidence, and the best one in any case.

    Args:
        sentences: Logit of each sentence.
        paragraphs: Logit of each paragraph.
        owner: The paragraph of each sentence; negative for none.
    """
    inside: dict[int, list[int]] = defaultdict(list)
    for sentence, paragraph in enumerate(owner):
        if paragraph >= 0:
            inside[paragraph].append(sentence)

    def score(paragraph: int) -> float:
        return paragraphs[paragraph] + max(sentences[s] for s in inside[paragraph])

    # A paragraph whose sentences were cut off holds no evidence that could be named.
    full = sorted((p for p in range(len(paragraphs)) if inside[p]), key=score, reverse=True)
    empty = [p for p in range(len(paragraphs)) if not inside[p]]
    chosen = []
    for paragraph in full[:PARAGRAPHS]:
        best = max(inside[paragraph], key=lambda sentence: sentences[sentence])
        chosen += [s for s in inside[paragraph] if s == best or sentences[s] > 0]
    empty.sort(key=lambda paragraph: paragraphs[paragraph], reverse=True)
    return Evidence(full + empty, sorted(chosen))
