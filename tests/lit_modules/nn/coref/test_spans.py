import torch

from lit_modules.nn.coref.spans import MentionScorer, SpanVectors


def test_a_span_is_its_ends_its_expected_piece_and_its_length() -> None:
    module = SpanVectors(width=6, features=4, longest=5, dropout=0.0)
    pieces = torch.randn(30, 6)
    bounds = torch.tensor([[3, 3], [3, 9], [5, 6], [20, 27]])
    words = torch.tensor([1, 5, 2, 4])
    found = module(pieces, bounds, words)
    assert found.shape == (4, module.width)
    for row, (first, last) in enumerate(bounds.tolist()):
        inside = pieces[first : last + 1]
        expected = module.attention(inside).softmax(0).T @ inside
        by_hand = torch.cat(
            (inside[0], inside[-1], expected[0], module.lengths.weight[words[row] - 1])
        )
        torch.testing.assert_close(found[row], by_hand)


def test_there_may_be_no_span() -> None:
    module = SpanVectors(width=6, features=4, longest=5, dropout=0.0)
    empty = torch.zeros(0, dtype=torch.int64)
    assert module(torch.randn(0, 6), empty.view(0, 2), empty).shape == (0, module.width)


def test_a_mention_is_scored_by_vector_and_length() -> None:
    module = MentionScorer(width=7, inner=5, features=4, longest=3, dropout=0.0)
    spans, words = torch.randn(4, 7), torch.tensor([1, 3, 3, 2])
    expected = module.score(spans) + module.length_score(module.lengths(words - 1))
    torch.testing.assert_close(module(spans, words), expected[:, 0])
