import math

import pytest
import torch

from lit_modules.nn.answer_spans import best_spans, gold_mask, no_answer_scores, or_loss

EXAMPLE = torch.tensor([0, 0, 1, 2])


def test_an_answer_that_begins_where_another_does_counts_once() -> None:
    mask = gold_mask(torch.tensor([[2, 2, 0], [-1, -1, -1]]), 4)
    assert mask.tolist() == [[True, False, True, False], [False] * 4]


def test_the_loss_is_that_of_the_sums_over_all_rows() -> None:
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    gold = gold_mask(torch.tensor([[1, 3], [-1, -1], [5, -1], [-1, -1]]), 6)
    allowed = torch.rand(4, 6) < 0.7
    allowed |= gold
    losses = or_loss(logits, gold, allowed, EXAMPLE, 3)
    by_hand = []
    for example in range(3):
        right = everything = 0.0
        for row, owner in enumerate(EXAMPLE.tolist()):
            for token in range(6):
                share = math.exp(float(logits[row, token].detach()))
                right += share * bool(gold[row, token]) * (owner == example)
                everything += share * bool(allowed[row, token]) * (owner == example)
        by_hand.append(-math.log(right / everything) if right else 0.0)
    torch.testing.assert_close(losses.tolist(), by_hand, rtol=1e-12, atol=0)
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    # The question without an answer teaches nothing, the row without one does.
    assert not logits.grad[3].any()
    assert logits.grad[1][allowed[1]].gt(0).all()
    assert not logits.grad[~allowed].any()


def test_the_gradient_is_right() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    gold = gold_mask(torch.tensor([[1, 2], [-1, -1], [0, -1], [-1, -1]]), 3)
    everything = torch.ones_like(gold)
    assert torch.autograd.gradcheck(lambda x: or_loss(x, gold, everything, EXAMPLE, 3), logits)


def test_an_answer_outside_of_the_text_is_refused() -> None:
    gold = gold_mask(torch.tensor([[1], [4]]), 6)
    allowed = torch.ones(2, 6, dtype=torch.bool)
    allowed[1, 4] = False
    with pytest.raises(ValueError, match="answer is at token 4 of row 1, outside of context_mask"):
        or_loss(torch.zeros(2, 6), gold, allowed, torch.tensor([0, 1]), 2)


def test_the_best_span_is_that_of_a_search_over_all() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        starts, ends = torch.randn(2, 4, 9)
        allowed = torch.rand(4, 9) < 0.8
        allowed[3] = False
        found = best_spans(starts, ends, allowed, EXAMPLE, 3, top=9, longest=3)
        assert found[2].row == -1
        for example in range(2):
            spans = [
                (float(starts[row, a] + ends[row, b]), row, a, b)
                for row, owner in enumerate(EXAMPLE.tolist())
                for a in range(9)
                for b in range(a, min(a + 3, 9))
                if owner == example and allowed[row, a] and allowed[row, b]
            ]
            score, *where = max(spans)
            assert [*found[example][:3]] == where
            assert found[example].score == pytest.approx(score, abs=1e-6)


def test_a_span_is_within_one_part_of_the_text() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        starts, ends = torch.randn(2, 1, 9)
        part = (torch.rand(1, 9) < 0.3).cumsum(1)
        allowed = torch.ones(1, 9, dtype=torch.bool)
        alone = torch.zeros(1, dtype=torch.int64)
        (found,) = best_spans(starts, ends, allowed, alone, 1, top=9, longest=4, part=part)
        spans = [
            (float(starts[0, a] + ends[0, b]), a, b)
            for a in range(9)
            for b in range(a, min(a + 4, 9))
            if part[0, a] == part[0, b]
        ]
        assert (found.start, found.end) == max(spans)[1:]


def test_only_the_top_starts_and_ends_are_paired() -> None:
    starts = torch.tensor([[0.0, 5.0, 4.0, 9.0]])
    ends = torch.tensor([[7.0, 0.0, 6.0, 0.0]])
    allowed = torch.ones(1, 4, dtype=torch.bool)
    alone = torch.zeros(1, dtype=torch.int64)
    # The best start is behind the best end.
    assert best_spans(starts, ends, allowed, alone, 1)[0][:3] == (0, 1, 2)
    assert best_spans(starts, ends, allowed, alone, 1, longest=1)[0][:3] == (0, 2, 2)
    # No pair of one each is a span: the best single token is.
    assert best_spans(starts, ends, allowed, alone, 1, top=1)[0][:3] == (0, 2, 2)


def test_no_answer_is_the_first_tokens_of_all_rows_together() -> None:
    starts, ends = torch.randn(2, 4, 5)
    found = no_answer_scores(starts, ends, EXAMPLE, 3)
    both = starts[:2, 0].logsumexp(0) + ends[:2, 0].logsumexp(0)
    assert found == pytest.approx(
        [float(both), float(starts[2, 0] + ends[2, 0]), float(starts[3, 0] + ends[3, 0])], abs=1e-6
    )
