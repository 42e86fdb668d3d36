import pytest
import torch

from lit_modules.nn.coref.ranking import MentionRanker, RankingSettings

WORDS = torch.tensor([0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 7])
SENTENCES = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
SPEAKERS = torch.tensor([1, 1, 1, 1, 2, 2, 2, 2])


def ranker(**changes: object) -> MentionRanker:
    settings = dict(longest_span=3, inner=8, features=4, dropout=0.0, antecedents=4, **changes)
    torch.manual_seed(1)
    return MentionRanker(6, 2, RankingSettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(("share", "most", "kept"), [(0.5, 9, 4), (1.0, 5, 5), (0.0, 9, 1)])
def test_as_many_spans_are_kept_as_the_settings_say(share: float, most: int, kept: int) -> None:
    found = ranker(spans_per_word=share, most_spans=most)(
        torch.randn(11, 6), WORDS, SENTENCES, SPEAKERS, torch.tensor(0)
    )
    assert len(found.spans) == kept
    assert (SENTENCES[found.spans[:, 0]] == SENTENCES[found.spans[:, 1]]).all()
    assert found.scores.shape == found.antecedents.shape == (kept, min(4, kept))


@pytest.mark.parametrize("depth", [1, 3])
def test_parts_change_nothing_but_the_memory(depth: int) -> None:
    pieces = torch.randn(11, 6)
    gradients = []
    for size in (1000, 2):
        module = ranker(depth=depth, span_part=size, pair_part=size, spans_per_word=0.8)
        inputs = pieces.clone().requires_grad_()
        found = module(inputs, WORDS, SENTENCES, SPEAKERS, torch.tensor(1))
        found.scores[found.mask].square().sum().backward()
        gradients.append((inputs.grad, *(p.grad for p in module.parameters())))
        assert all(gradient is not None for gradient in gradients[-1])
    torch.testing.assert_close(*gradients)


def test_every_word_needs_a_piece() -> None:
    with pytest.raises(ValueError, match="every one of the 9 words needs a piece, in order"):
        ranker()(torch.randn(11, 6), WORDS, torch.zeros(9).long(), torch.zeros(9), torch.tensor(0))


@pytest.mark.parametrize(
    ("name", "value"), [("antecedents", 0), ("dropout", 1.0), ("spans_per_word", -1.0)]
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"ranking {name} must be .*, got {value}"):
        RankingSettings(**{name: value})  # type: ignore[arg-type]
