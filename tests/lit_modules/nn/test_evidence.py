import itertools

import pytest
import torch
from torch.nn import functional as F

from lit_modules.nn.evidence import choose_evidence, masked_bce


def test_unknown_labels_do_not_count() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    labels = torch.tensor([[1, 0, -1, 0], [-1, -1, -1, -1], [1, 1, 1, 0]])
    losses = masked_bce(logits, labels)
    first = F.binary_cross_entropy_with_logits(logits[0, [0, 1, 3]], torch.tensor([1.0, 0, 0]))
    last = F.binary_cross_entropy_with_logits(logits[2], torch.tensor([1.0, 1, 1, 0]))
    torch.testing.assert_close(losses, torch.stack((first, torch.tensor(0.0), last)))
    losses.sum().backward()
    assert logits.grad is not None
    assert not logits.grad[labels < 0].any()


def test_evidence_is_in_exactly_two_paragraphs() -> None:
    for seed in range(30):
        torch.manual_seed(seed)
        owner = torch.randint(4, (9,)).sort().values.tolist()
        sentences, paragraphs = torch.randn(9).tolist(), torch.randn(4).tolist()
        found = choose_evidence(sentences, paragraphs, owner)
        present = sorted(set(owner))
        best = {
            p: paragraphs[p] + max(sentences[s] for s in range(9) if owner[s] == p) for p in present
        }
        pair = max(itertools.combinations(present, 2), key=lambda two: best[two[0]] + best[two[1]])
        assert {owner[s] for s in found.sentences} == set(pair)
        assert set(found.paragraphs[:2]) == set(pair)
        assert sorted(found.paragraphs) == [0, 1, 2, 3]
        assert found.sentences == sorted(found.sentences)
        for s in range(9):
            if owner[s] in pair and sentences[s] > 0:
                assert s in found.sentences


@pytest.mark.parametrize(
    ("owner", "sentences", "expected"),
    [
        ([0, 0, 1, 1], [-1.0, -2.0, 3.0, 0.5], [0, 2, 3]),  # the best one, even if unlikely
        ([0, 0, 0], [1.0, -1.0, 2.0], [0, 2]),  # only one paragraph has sentences
        ([], [], []),
        ([-1, 1], [9.0, 1.0], [1]),  # a sentence of no paragraph
    ],
)
def test_corner_cases(owner: list[int], sentences: list[float], expected: list[int]) -> None:
    assert choose_evidence(sentences, [0.0, 0.0], owner).sentences == expected
