import torch

from lit_modules.nn.coref.candidates import candidate_spans, keep_best


def test_every_short_span_within_a_sentence_is_a_candidate() -> None:
    sentences = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
    found = [tuple(span) for span in candidate_spans(sentences, 3).tolist()]
    expected = [
        (a, b) for a in range(8) for b in range(a, min(a + 3, 8)) if sentences[a] == sentences[b]
    ]
    assert found == expected
    assert candidate_spans(torch.zeros(0, dtype=torch.int64), 3).shape == (0, 2)


def crosses(one: tuple[int, int], other: tuple[int, int]) -> bool:
    (a, b), (c, d) = sorted((one, other))
    return a < c <= b < d


def test_the_best_spans_that_do_not_cross_are_kept() -> None:
    assert crosses((0, 2), (2, 3))
    assert not crosses((0, 3), (0, 2))
    assert not crosses((0, 2), (3, 4))
    for seed in range(30):
        torch.manual_seed(seed)
        spans = candidate_spans(torch.zeros(12, dtype=torch.int64), 5)
        scores = torch.randn(len(spans))
        kept: list[tuple[int, int]] = []
        for index in scores.argsort(descending=True).tolist():
            span = (int(spans[index, 0]), int(spans[index, 1]))
            if len(kept) < 9 and not any(crosses(span, other) for other in kept):
                kept.append(span)
        found = spans[keep_best(spans, scores, 9)]
        assert [tuple(span) for span in found.tolist()] == sorted(kept)
