"""Synthetic recall over a chosen distance: what a receptive field can and cannot reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from datamodules.language_model.base import LanguageModelData, check_at_least
from datamodules.language_model.batch import IGNORE, LanguageModelBatch
from datamodules.loading.shards import Shard, Source, generator
from datamodules.registry import register

__all__ = ["Recall", "RecallBatches"]


@dataclass(frozen=True)
class Alphabet:
    """The tokens of the task: first the keys, then the values, then the noise."""

    keys: int
    values: int
    noise: int

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return self.keys + self.values + self.noise

    def names(self) -> list[str]:
        """Return a word for each token: k0, k1, ..., v0, ..., n0, ..."""
        groups = (("k", self.keys), ("v", self.values), ("n", self.noise))
        return [f"{letter}{i}" for letter, count in groups for i in range(count)]


@dataclass(frozen=True)
class RecallBatches:
    """Batches of the task; number k is a function of `key` and k.

    Args:
        alphabet: The tokens.
        pairs: Key-value pairs shown.
        queries: Keys asked for.
        distance: Positions from the last value shown to the first key asked for.
        length: Tokens of a row.
        rows: Rows of a batch over all processes.
        batches: Batches of one pass.
        key: What the random numbers depend on, besides the number of the batch.
        shard: This process.
    """

    alphabet: Alphabet
    pairs: int
    queries: int
    distance: int
    length: int
    rows: int
    batches: int
    key: tuple[int | str, ...]
    shard: Shard

    def __len__(self) -> int:
        """Return the batches of one pass."""
        return self.batches

    def __getitem__(self, number: int) -> LanguageModelBatch:
        """Return batch `number`."""
        random = generator(*self.key, number)
        a, rows = self.alphabet, self.rows
        tokens = torch.randint(a.noise, (rows, self.length), generator=random) + a.keys + a.values
        labels = torch.full((rows, self.length), IGNORE)
        # The keys of a row differ, so that each has one value.
        keys = torch.rand(rows, a.keys, generator=random).argsort(1)[:, : self.pairs]
        values = torch.randint(a.values, (rows, self.pairs), generator=random) + a.keys
        asked = torch.randint(self.pairs, (rows, self.queries), generator=random)
        slack = self.length - shortest(self.pairs, self.queries, self.distance)
        start = torch.randint(slack + 1, (rows, 1), generator=random)
        shown_at = start + 2 * torch.arange(self.pairs)
        asked_at = shown_at[:, -1:] + 1 + self.distance + torch.arange(self.queries)
        tokens.scatter_(1, shown_at, keys)
        tokens.scatter_(1, shown_at + 1, values)
        tokens.scatter_(1, asked_at, keys.gather(1, asked))
        labels.scatter_(1, asked_at, values.gather(1, asked))
        mine = list(self.shard.rows(rows))
        return LanguageModelBatch(input_ids=tokens[mine], labels=labels[mine])


@register("recall")
class Recall(LanguageModelData):
    """Recall what was shown long ago: key-value pairs, noise, then keys whose values are asked for.

    A row is ``k3 v5 k0 v1  n2 n0 ... n7  k0 k3 k3``. Only the predictions at the last keys are
    scored, here v1, v5 and v5; they are no part of the input. The first key asked for stands
    `distance` positions after the last value shown: every answer is at least so far back. So a
    model that sees less than `distance` positions back can only guess, at log2(values) bits, and
    one that sees ``distance + 2 * pairs + queries`` or more can know. There is no text: all data
    is drawn from the seed.

    Args:
        distance: Positions from the last value shown to the first key asked for.
        pairs: Key-value pairs shown.
        queries: Keys asked for, each drawn from those shown.
        keys: Different keys there are.
        values: Different values there are.
        noise: Different tokens that noise is made of.
        sequence_length: Tokens of a row; None takes the least possible. In a longer one the task
            begins at a random place and noise fills the rest.
        batch_size: Rows of a batch, over all processes together.
        eval_batch_size: The same in validation and test; None takes `batch_size`.
        train_batches: Batches of an epoch, where there are no stages.
        eval_batches: Batches of validation and of test.
        seed: Decides what is drawn; training, validation and test draw differently.
        num_workers: Processes that prepare batches ahead.
    """

    def __init__(
        self,
        distance: int = 1000,
        pairs: int = 1,
        queries: int = 16,
        keys: int = 8,
        values: int = 8,
        noise: int = 8,
        sequence_length: int | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        train_batches: int = 100,
        eval_batches: int = 16,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        check_at_least(1, distance=distance, pairs=pairs, queries=queries, noise=noise)
        check_at_least(2, values=values)
        check_at_least(pairs, keys=keys)
        check_at_least(1, train_batches=train_batches, eval_batches=eval_batches)
        least = shortest(pairs, queries, distance)
        super().__init__(
            least if sequence_length is None else sequence_length,
            batch_size,
            eval_batch_size,
            seed,
            num_workers,
        )
        self.distance = distance
        self.pairs = pairs
        self.queries = queries
        self.alphabet = Alphabet(keys, values, noise)
        self.train_batches = train_batches
        self.eval_batches = eval_batches
        self._check_length()

    @property
    def vocabulary_size(self) -> int:
        """How many different tokens there are."""
        return self.alphabet.size

    def encode(self, text: str) -> list[int]:
        """Return the tokens of words such as "k3 v5 n0".

        Raises:
            ValueError: A word is not one of the task's.
        """
        numbers = {name: i for i, name in enumerate(self.alphabet.names())}
        for word in text.split():
            if word not in numbers:
                raise ValueError(f"the word {word!r} is outside the vocabulary: {list(numbers)}")
        return [numbers[word] for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words of tokens."""
        names = self.alphabet.names()
        return " ".join(names[i] for i in ids)

    def set_stage(
        self,
        stage: int,
        sequence_length: int,
        batch_size: int,
        batches_done: int = 0,
        batches: int | None = None,
    ) -> None:
        """As in `LanguageModelData`; the sequence must hold the task."""
        super().set_stage(stage, sequence_length, batch_size, batches_done, batches)
        self._check_length()

    def train_source(self, shard: Shard) -> Source:
        """Return the training batches of the current stage for one process."""
        key = ("recall", "train", self.seed, self.stage)
        return self._source(key, self.batch_size, self.train_batches, shard)

    def eval_source(self, split: str, shard: Shard) -> Source:
        """Return the batches of split "val" or "test".

        Raises:
            ValueError: The rows cannot be divided among the processes.
        """
        rows = self.eval_batch_size or self.batch_size
        if rows % shard.processes:
            raise ValueError(
                f"eval_batch_size {rows} cannot be divided among {shard.processes} processes; "
                f"choose a multiple of {shard.processes}"
            )
        return self._source(("recall", split, self.seed), rows, self.eval_batches, shard)

    def _source(
        self, key: tuple[int | str, ...], rows: int, batches: int, shard: Shard
    ) -> RecallBatches:
        return RecallBatches(
            self.alphabet,
            self.pairs,
            self.queries,
            self.distance,
            self.sequence_length,
            rows,
            batches,
            key,
            shard,
        )

    def _check_length(self) -> None:
        least = shortest(self.pairs, self.queries, self.distance)
        if self.sequence_length < least:
            raise ValueError(
                f"sequence_length must be >= {least} to hold {self.pairs} pairs, a distance of "
                f"{self.distance} and {self.queries} queries, got {self.sequence_length}"
            )


def shortest(pairs: int, queries: int, distance: int) -> int:
    """Return the tokens of a row without any to spare."""
    return 2 * pairs + distance + queries - 1
