"""Masking: which tokens are to be guessed, and what stands in their place (BERT, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from datamodules.language_model.batch import IGNORE

__all__ = ["Masking"]


@dataclass(frozen=True)
class Masking:
    """Each token is chosen by chance.

    Of those that are chosen 80 % are masked, 10 % become another token, and 10 % stay.

    Attributes:
        vocabulary_size: Number of token ids.
        mask_id: What stands in place of a masked token.
        special_ids: Tokens that are never chosen, and never take the place of another.
        share: Chance of a token to be chosen.
        whole_words: Choose words with all their tokens, with the same chance.
    """

    vocabulary_size: int
    mask_id: int
    special_ids: frozenset[int]
    share: float = 0.15
    whole_words: bool = False
    _special: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a share that leaves nothing to guess or to guess from.

        Raises:
            ValueError: The share is out of range, or all tokens are special.
        """
        if not 0 < self.share < 1:
            raise ValueError(f"mask_share must be > 0 and < 1, got {self.share}")
        special = torch.zeros(self.vocabulary_size, dtype=torch.bool)
        special[list(self.special_ids)] = True
        if bool(special.all()):
            raise ValueError(f"all {self.vocabulary_size} tokens are special, none can be masked")
        object.__setattr__(self, "_special", special)

    def __call__(
        self, ids: Tensor, begins: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mask a text.

        Args:
            ids: int64 `(length,)`.
            begins: bool `(length,)`, where words begin.
            generator: Decides all.

        Returns:
            What is read, and the labels: the token that was there where one was chosen, else
            `IGNORE`.
        """
        length = len(ids)
        chances = torch.rand(length, generator=generator)
        if self.whole_words and length:
            # Every token has the chance that was drawn for the first one of its word.
            word = begins.long().cumsum(0)
            first = torch.full((int(word[-1]) + 1,), length)
            first.scatter_reduce_(0, word, torch.arange(length), "amin")
            chances = chances[first[word]]
        chosen = (chances < self.share) & ~self._special[ids]
        labels = ids.masked_fill(~chosen, IGNORE)
        fate = torch.rand(length, generator=generator)
        others = (~self._special).nonzero()[:, 0]
        other = others[torch.randint(len(others), (length,), generator=generator)]
        read = torch.where(chosen & (fate < 0.9), other, ids)
        read = read.masked_fill(chosen & (fate < 0.8), self.mask_id)
        return read, labels
