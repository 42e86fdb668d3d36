"""Which spans of words may be mentions, and which of them are kept."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

__all__ = ["candidate_spans", "keep_best"]


def candidate_spans(sentences: Tensor, longest: int) -> Tensor:
    """Return every span of at most `longest` words within one sentence.

    Args:
        sentences: int64 (W,), the sentence of each word.
        longest: Words of the longest span.

    Returns:
        int64 (S, 2), first and last word, in order.
    """
    words = torch.arange(len(sentences), device=sentences.device)
    starts = words[:, None].expand(-1, longest)
    ends = starts + torch.arange(longest, device=sentences.device)
    inside = ends < len(words)
    same = sentences[ends.clamp(max=max(len(words) - 1, 0))] == sentences[:, None]
    return torch.stack((starts, ends), dim=2)[inside & same]


def keep_best(spans: Tensor, scores: Tensor, count: int) -> Tensor:
    """Return the indices of the best spans that do not cross one another, in order of the text.

    Two spans cross where one begins inside the other and ends outside of it (Lee et al. 2017).

    Args:
        spans: int64 (S, 2), first and last word.
        scores: (S,).
        count: How many are kept at most.

    Returns:
        int64 (K,).
    """
    # Of the kept spans: the last end by start, and the first start by end.
    furthest: dict[int, int] = defaultdict(lambda: -1)
    earliest: dict[int, int] = {}
    kept: list[int] = []
    ends = spans.tolist()
    for index in scores.detach().argsort(descending=True, stable=True).tolist():
        if len(kept) == count:
            break
        start, end = ends[index]
        crosses = any(furthest[word] > end for word in range(start + 1, end + 1)) or any(
            earliest.get(word, start) < start for word in range(start, end)
        )
        if crosses:
            continue
        kept.append(index)
        furthest[start] = max(furthest[start], end)
        earliest[end] = min(earliest.get(end, start), start)
    kept.sort(key=lambda index: (*ends[index],))
    return torch.tensor(kept, dtype=torch.int64, device=spans.device)
