"""Answer spans: the or-loss over all occurrences of an answer, and the best span of an example.

An example may be several rows. Starts (and ends) of all its rows share one softmax, so that the
scores of different rows can be compared (Clark and Gardner 2018, section 3.2); for an example of
one row that is the or-loss of the paper (Longformer, appendix on TriviaQA).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lit_modules.nn.precision import widened
from lit_modules.nn.rows import logsumexp_by_example

__all__ = ["Span", "best_spans", "gold_mask", "no_answer_scores", "or_loss"]


class Span(NamedTuple):
    """The best span of an example.

    Attributes:
        row: The row it is in; -1 where no token may be in an answer.
        start: Its first token.
        end: Its last token.
        score: Start logit plus end logit.
    """

    row: int
    start: int
    end: int
    score: float


def gold_mask(positions: Tensor, length: int) -> Tensor:
    """Return bool `(rows, length)`, True at each of `positions` `(rows, n)`; -1 is padding.

    Two answers may begin at one token, which counts once.
    """
    rows = positions.shape[0]
    # An extra column receives the padding.
    mask = torch.zeros(rows, length + 1, dtype=torch.bool, device=positions.device)
    mask.scatter_(1, torch.where(positions < 0, length, positions), True)
    return mask[:, :length]


def or_loss(
    logits: Tensor, gold: Tensor, allowed: Tensor, example: Tensor, examples: int
) -> Tensor:
    """Return -(logsumexp(gold) - logsumexp(allowed)) of each example, in nats.

    Args:
        logits: `(rows, length)`, of starts or of ends.
        gold: bool `(rows, length)`, every right token.
        allowed: bool `(rows, length)`, every token that could be chosen.
        example: int64 `(rows,)`, the example that a row belongs to.
        examples: Number of examples.

    Returns:
        `(examples,)`; 0 where an example has no right token.

    Raises:
        ValueError: A right token is not one that could be chosen.
    """
    if bool((gold & ~allowed).any()):
        row, token = (gold & ~allowed).nonzero()[0].tolist()
        raise ValueError(f"an answer is at token {token} of row {row}, outside of context_mask")
    right = logsumexp_by_example(logits, gold, example, examples)
    total = logsumexp_by_example(logits, allowed, example, examples)
    return torch.where(right == -torch.inf, 0.0, total - right)


@torch.no_grad()
def best_spans(
    starts: Tensor,
    ends: Tensor,
    allowed: Tensor,
    example: Tensor,
    examples: int,
    *,
    top: int = 20,
    longest: int = 30,
    part: Tensor | None = None,
) -> list[Span]:
    """Return the best span of each example, among the `top` starts times the `top` ends of a row.

    Where none of these pairs makes a span, the best single token is taken.

    Args:
        starts: Logits `(rows, length)`.
        ends: Logits `(rows, length)`.
        allowed: bool `(rows, length)`, tokens that an answer may begin or end in.
        example: int64 `(rows,)`, the example that a row belongs to.
        examples: Number of examples.
        top: Starts, and ends, that are considered.
        longest: Tokens of the longest span.
        part: int64 `(rows, length)`, the part of the text that each token is in: a span does not
            reach from one into another. None where the text is one part.
    """
    starts = widened(starts).masked_fill(~allowed, -torch.inf)
    ends = widened(ends).masked_fill(~allowed, -torch.inf)
    count = min(top, starts.shape[1])
    start_score, start = starts.topk(count, dim=1)
    end_score, end = ends.topk(count, dim=1)
    scores = start_score[:, :, None] + end_score[:, None, :]
    tokens = end[:, None, :] - start[:, :, None] + 1
    scores = scores.masked_fill((tokens < 1) | (tokens > longest), -torch.inf)
    if part is not None:
        crosses = part.gather(1, start)[:, :, None] != part.gather(1, end)[:, None, :]
        scores = scores.masked_fill(crosses, -torch.inf)
    score, at = scores.flatten(1).max(1)
    begin = start.gather(1, (at // count)[:, None])[:, 0]
    stop = end.gather(1, (at % count)[:, None])[:, 0]
    single, token = (starts + ends).max(1)
    none = score == -torch.inf
    score = torch.where(none, single, score)
    begin, stop = torch.where(none, token, begin), torch.where(none, token, stop)
    found = [Span(-1, 0, 0, -float("inf"))] * examples
    columns = (example.tolist(), begin.tolist(), stop.tolist(), score.tolist())
    for row, (owner, first, last, value) in enumerate(zip(*columns, strict=True)):
        if value > found[owner].score:
            found[owner] = Span(row, first, last, value)
    return found


@torch.no_grad()
def no_answer_scores(starts: Tensor, ends: Tensor, example: Tensor, examples: int) -> list[float]:
    """Return the score of "no answer" of each example: the first tokens of all its rows together.

    Comparable with the score of a span: both are unnormalised log-probabilities of one softmax.
    """
    first = torch.zeros_like(starts, dtype=torch.bool)
    first[:, 0] = True
    total = sum(
        logsumexp_by_example(widened(logits), first, example, examples) for logits in (starts, ends)
    )
    assert isinstance(total, Tensor)
    scores: list[float] = total.tolist()
    return scores
