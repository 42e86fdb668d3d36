"""Masking chooses its share, and does with it what it says."""

import pytest
import torch

from datamodules.language_model.batch import IGNORE
from datamodules.masked.masking import Masking

SPECIAL = frozenset({0, 1, 2, 3})
MASK = 3
N = 40_000


def masked(**fields: object) -> tuple[torch.Tensor, ...]:
    given = dict(vocabulary_size=50, mask_id=MASK, special_ids=SPECIAL)
    masking = Masking(**{**given, **fields})  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(50, (N,), generator=generator)
    begins = torch.rand(N, generator=generator) < 0.4
    read, labels = masking(ids, begins, torch.Generator().manual_seed(7))
    return ids, begins, read, labels


@pytest.mark.parametrize("share", [0.15, 0.4])
@pytest.mark.parametrize("whole_words", [False, True])
def test_shares_and_fates(share: float, whole_words: bool) -> None:
    ids, _, read, labels = masked(share=share, whole_words=whole_words)
    chosen = labels != IGNORE
    plain = ids > 3
    assert float(chosen[plain].float().mean()) == pytest.approx(share, rel=0.06)
    assert torch.equal(labels[chosen], ids[chosen])
    # What is not chosen is read as it is, and special tokens are never chosen.
    assert torch.equal(read[~chosen], ids[~chosen])
    assert not chosen[~plain].any()
    is_mask = read[chosen] == MASK
    stays = read[chosen] == ids[chosen]
    other = ~is_mask & ~stays
    assert float(is_mask.float().mean()) == pytest.approx(0.8, abs=0.02)
    # One in 46 other tokens is by chance the one that was there.
    assert float(other.float().mean()) == pytest.approx(0.1 * 45 / 46, abs=0.015)
    assert float(stays.float().mean()) == pytest.approx(0.1 + 0.1 / 46, abs=0.015)
    assert set(read[chosen][other].tolist()) == set(range(4, 50))


def test_whole_words_are_chosen_with_all_their_tokens() -> None:
    ids, begins, _, labels = masked(whole_words=True)
    word = begins.long().cumsum(0)
    chosen = labels != IGNORE
    plain = ids > 3
    tokens = torch.bincount(word[plain])
    masked_tokens = torch.bincount(word[plain & chosen], minlength=len(tokens))
    assert ((masked_tokens == 0) | (masked_tokens == tokens)).all()
    assert int((tokens > 1).sum()) > 500
    assert int((masked_tokens > 1).sum()) > 100
    # Without the option most words are torn.
    ids, begins, _, labels = masked()
    pairs = ~begins[1:] & plain[1:] & plain[:-1]
    chosen = labels != IGNORE
    assert (chosen[1:] != chosen[:-1])[pairs].any()


def test_a_text_without_anything_to_mask() -> None:
    masking = Masking(50, MASK, SPECIAL, whole_words=True)
    for ids in (torch.empty(0, dtype=torch.int64), torch.tensor([0, 2, 1])):
        read, labels = masking(ids, torch.ones(len(ids), dtype=torch.bool), torch.Generator())
        assert torch.equal(read, ids)
        assert (labels == IGNORE).all()


def test_what_leaves_nothing_to_guess_is_refused() -> None:
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"mask_share must be > 0 and < 1, got {share}"):
            Masking(50, MASK, SPECIAL, share)
    with pytest.raises(ValueError, match="all 4 tokens are special"):
        Masking(4, MASK, SPECIAL)
