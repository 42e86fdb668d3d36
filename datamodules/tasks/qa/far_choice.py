"""WikiHop-like synthetic data whose evidence is far from the question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from datamodules.files.documents import Document
from datamodules.files.records import Record, RecordError
from datamodules.files.splitting import SplitName
from datamodules.loading.resumable import check_at_least
from datamodules.loading.shards import generator
from datamodules.registry import register
from datamodules.tasks.qa.wikihop import CandidateData, WikiHopRecord
from datamodules.tokenizers.task import FixedWords, TaskTokenizer

__all__ = ["FarChoice"]


@register("far-choice")
class FarChoice(CandidateData):
    """Choose the candidate that a far-off statement names: made from a seed, there are no files.

    The question is a key, the candidates are values. The document is noise, and in it, at least
    `distance` words from the candidates, stands `key value`: the right candidate. `decoys` more
    statements give other candidates to other keys. A model whose receptive field is shorter than
    `distance` can only guess, at 1 in `choices`, unless the question and the candidates are global
    tokens.

    Args:
        distance: Words between the candidates and the first statement, at least.
        choices: Candidates of a question.
        decoys: Statements with other keys, each of another candidate; with none, the right
            candidate is the only one that is in the document.
        keys: Different keys there are.
        values: Different values there are.
        noise: Different words that noise is made of.
        spread: Words that statements are scattered over, after `distance`.
        train_examples: Questions to train on.
        eval_examples: Questions of validation and of test.
        **kwargs: As in `CandidateData`: batch_size, global_tokens, seed, cache_dir, and more. The
            seed decides what is drawn.
    """

    def __init__(
        self,
        *,
        distance: int = 256,
        choices: int = 4,
        decoys: int = 1,
        keys: int = 16,
        values: int = 16,
        noise: int = 16,
        spread: int = 32,
        train_examples: int = 2000,
        eval_examples: int = 200,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(0, distance=distance, decoys=decoys)
        check_at_least(2, choices=choices)
        check_at_least(choices, values=values)
        check_at_least(decoys + 1, keys=keys)
        check_at_least(1, noise=noise, train_examples=train_examples, eval_examples=eval_examples)
        check_at_least(2 * (decoys + 1), spread=spread)
        if decoys >= choices:
            raise ValueError(f"decoys must be < choices, which is {choices}, got {decoys}")
        self.distance = distance
        self.choices = choices
        self.decoys = decoys
        self.keys = keys
        self.values = values
        self.noise = noise
        self.spread = spread
        self.counts: dict[SplitName, int] = {
            "train": train_examples,
            "val": eval_examples,
            "test": eval_examples,
        }
        words = [f"{w}{i}" for w, n in (("k", keys), ("v", values), ("n", noise)) for i in range(n)]
        self.tokenizer = TaskTokenizer(FixedWords(words), self.marks)

    def settings(self) -> dict[str, Any]:
        """Return all numbers that the questions depend on."""
        names = ("distance", "choices", "decoys", "keys", "values", "noise", "spread", "seed")
        return {
            **super().settings(),
            **{name: getattr(self, name) for name in names},
            "counts": self.counts,
        }

    def documents(self) -> dict[SplitName, list[Document]]:
        """Return the splits, which have no files."""
        return {split: [] for split in self.counts}

    def read(self, document: Document, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield nothing: there are no files."""
        return iter(())

    def records(self, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the questions; number k is a function of seed, split and k."""
        for number in range(self.counts[split]):
            yield self._question(split, number)

    def _question(self, split: SplitName, number: int) -> WikiHopRecord:
        random = generator("far-choice", self.seed, split, number)

        def drawn(count: int, most: int) -> list[int]:
            return torch.randperm(most, generator=random)[:count].tolist()

        statements = self.decoys + 1
        candidates = [f"v{i}" for i in drawn(self.choices, self.values)]
        keys = [f"k{i}" for i in drawn(statements, self.keys)]
        stated = [candidates[i] for i in drawn(statements, self.choices)]
        length = self.distance + self.spread
        words = [f"n{i}" for i in torch.randint(self.noise, (length,), generator=random).tolist()]
        # The first statement is the question's; each has a place of two words of its own.
        for place, key, value in zip(
            drawn(statements, self.spread // 2), keys, stated, strict=True
        ):
            begin = self.distance + 2 * place
            words[begin : begin + 2] = [key, value]
        return WikiHopRecord(
            f"{split}-{number}", "far-choice", keys[0], (" ".join(words),), tuple(candidates),
            stated[0],
        )  # fmt: skip
