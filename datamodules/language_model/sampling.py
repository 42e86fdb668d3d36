"""Which tokens make up batch number k: pure functions, the same in every process and every run.

A source holds the batches of one process. All processes draw the rows of the whole batch and keep
their own, so that two processes with half the rows each see what one process with all rows sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.language_model.batch import LanguageModelBatch, Window, collate
from datamodules.loading.draws import (
    batches_that_cover,
    batches_that_hold,
    places_in_order,
    random_places,
)
from datamodules.loading.shards import ALONE, Shard, generator
from datamodules.tokenizers.token_file import TokenFile

__all__ = [
    "EvaluationStreams",
    "EvaluationWindows",
    "RandomWindows",
    "Split",
    "Streams",
]


class Split(NamedTuple):
    """The tokens of one split.

    Attributes:
        tokens: All documents, one after the other.
        units: The units of text of each token; None where each is one.
        starts: int64, ascending: the first token of each document, that of the first included.
    """

    tokens: TokenFile
    units: TokenFile | None = None
    starts: Tensor = torch.zeros(1, dtype=torch.int64)

    def window(self, start: int, inputs: int, scored: int) -> Window:
        """Return `inputs` tokens from `start` on and the one after them."""
        stop = start + inputs + 1
        units = self.units.read(start, stop) if self.units is not None else None
        return Window(self.tokens.read(start, stop), scored, units)

    def window_around(self, start: int, inputs: int) -> Window:
        """As `window`, all scored, going on at the beginning where the split ends."""
        units = self.units.read_around(start, inputs + 1) if self.units is not None else None
        return Window(self.tokens.read_around(start, inputs + 1), inputs, units)

    def restarts(self, start: int, inputs: int) -> Tensor:
        """Return which of `inputs` tokens from `start` on begin a document, bool (inputs,).

        Tokens after the end of the split are those at its beginning.
        """
        places = torch.arange(start, start + inputs) % max(len(self.tokens), 1)
        return torch.isin(places, self.starts)

    @property
    def targets(self) -> int:
        """How many tokens can be predicted: all but the first."""
        return max(len(self.tokens) - 1, 0)


@dataclass(frozen=True)
class RandomWindows:
    """Windows of `length` inputs that begin anywhere, drawn anew for each batch.

    Args:
        split: The tokens.
        length: Inputs of a row.
        rows: Rows of a batch over all processes.
        seed: The seed of the run.
        stage: The stage, which draws windows of its own.
        shard: This process.
    """

    split: Split
    length: int
    rows: int
    seed: int
    stage: int = 0
    shard: Shard = ALONE

    def __len__(self) -> int:
        """Return the batches that hold as many tokens as the split."""
        return batches_that_hold(self.split.targets, self.length * self.rows)

    def __getitem__(self, number: int) -> LanguageModelBatch:
        """Return batch `number`."""
        places = self.split.targets - self.length + 1
        key = ("windows", self.seed, self.stage, number)
        starts = random_places(places, self.rows, self.shard, *key)
        windows = [self.split.window(start, self.length, self.length) for start in starts]
        return collate(windows, self.length)


@dataclass(frozen=True)
class Streams:
    """Each row reads its own part of the split from beginning to end, `length` inputs at a time.

    Every pass begins at another place of the split, drawn from seed, stage and pass; the tokens
    after the end of the split are those at its beginning. Where a document begins, the stream
    begins anew. Arguments as in `RandomWindows`.
    """

    split: Split
    length: int
    rows: int
    seed: int
    stage: int = 0
    shard: Shard = ALONE

    @property
    def row_tokens(self) -> int:
        """Tokens of the part that belongs to a row."""
        return self.split.targets // self.rows

    def __len__(self) -> int:
        """Return the segments of a row; the rest, shorter than a segment, is left out."""
        return max(1, self.row_tokens // self.length)

    def __getitem__(self, number: int) -> LanguageModelBatch:
        """Return batch `number`; `continues` is false at the beginning of a pass or document."""
        turn, segment = divmod(number, len(self))
        shift = torch.randint(
            len(self.split.tokens), (), generator=generator("streams", self.seed, self.stage, turn)
        )
        begin = int(shift) + segment * self.length
        windows = []
        for row in self.shard.rows(self.rows):
            start = begin + row * self.row_tokens
            window = self.split.window_around(start, self.length)
            windows.append(window._replace(restarts=self.split.restarts(start, self.length)))
        return collate(windows, self.length, continues=segment > 0)


@dataclass(frozen=True)
class EvaluationWindows:
    """Windows of `length` inputs, each `step` further; all score each token exactly once.

    The first window scores everything, the others their last `step` tokens (Longformer, section
    4.2.2: length 32,256, step 512). With `step` equal to `length` they do not overlap.

    Args:
        split: The tokens.
        length: Inputs of a window.
        step: Tokens by which a window is further than the one before.
        rows: Windows of a batch over all processes.
        shard: This process.
    """

    split: Split
    length: int
    step: int
    rows: int
    shard: Shard = ALONE

    @property
    def windows(self) -> int:
        """How many windows cover the split."""
        return 1 + ceil(max(0, self.split.targets - self.length) / self.step)

    def __len__(self) -> int:
        """Return the number of batches; the last may have fewer rows."""
        return batches_that_cover(self.windows, self.rows)

    def __getitem__(self, number: int) -> LanguageModelBatch:
        """Return batch `number`; what lacks at the end of the split is padded and not scored."""
        places = places_in_order(number, self.windows, self.rows, self.shard)
        return collate([self._window(place) for place in places], self.length, fills=True)

    def _window(self, index: int) -> Window:
        if index >= self.windows:
            return self.split.window(0, 0, 0)
        start = index * self.step
        stop = min(start + self.length, self.split.targets)
        scored_before = 0 if index == 0 else start - self.step + self.length
        return self.split.window(start, stop - start, stop - max(start, scored_before))


@dataclass(frozen=True)
class EvaluationStreams:
    """The split cut into `rows` parts, each read from beginning to end, `length` inputs at a time.

    For models with memory: `continues` is true but in the first batch and where a document begins.
    Each token is scored exactly once. Arguments as in `EvaluationWindows`.
    """

    split: Split
    length: int
    rows: int
    shard: Shard = ALONE

    @property
    def row_tokens(self) -> int:
        """Tokens that a row scores; the last rows may have fewer."""
        return ceil(self.split.targets / self.rows)

    def __len__(self) -> int:
        """Return the number of batches."""
        return ceil(self.row_tokens / self.length)

    def __getitem__(self, number: int) -> LanguageModelBatch:
        """Return batch `number`, which always has all rows: memory belongs to a row."""
        windows = []
        for row in self.shard.rows(self.rows):
            end = min((row + 1) * self.row_tokens, self.split.targets)
            start = row * self.row_tokens + number * self.length
            inputs = max(min(self.length, end - start), 0)
            window = self.split.window(start, inputs, inputs)
            windows.append(window._replace(restarts=self.split.restarts(start, inputs)))
        return collate(windows, self.length, continues=number > 0, fills=True)
