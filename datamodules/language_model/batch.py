"""What a language-model batch holds, and how windows of tokens become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

__all__ = ["IGNORE", "LanguageModelBatch", "MaskedBatch", "Window", "collate"]

IGNORE = -100
"""The label of a position that is not scored, as in `torch.nn.functional.cross_entropy`."""


class _Always(TypedDict):
    input_ids: Tensor
    labels: Tensor


class LanguageModelBatch(_Always, total=False):
    """One batch of one process.

    Attributes:
        input_ids: int64 (batch, length), the tokens that are read.
        labels: int64 (batch, length), already shifted: `labels[:, t]` is the token to predict at
            position t, having read the tokens up to and including t. `IGNORE` is not scored; a row
            may hold nothing else.
        units_scored: int64 (batch,), how many units of text (the `unit` of the data set: bytes) the
            scored labels of a row stand for. Absent where every token is one unit.
        continues: bool (batch,), whether this row continues where the same row of the previous
            batch ended, in the same document, so that memory of it may be used. Absent where rows
            are unrelated.
        restarts: bool (batch, length), True at the first token of a document: what is before it, in
            the row or in memory, is another document's. Absent where `continues` is.
        filler: bool (batch,), True for a row that holds no text and only makes the number of rows
            what it is in other batches or processes. Absent in training, where no row is one.
    """

    units_scored: Tensor
    continues: Tensor
    restarts: Tensor
    filler: Tensor


class _MaskedAlways(TypedDict):
    input_ids: Tensor
    labels: Tensor
    units_scored: Tensor


class MaskedBatch(_MaskedAlways, total=False):
    """One batch of a masked language model, of one process.

    Attributes:
        input_ids: int64 (batch, length), with masks.
        labels: int64 (batch, length), the token that was there where one is to be guessed, else
            `IGNORE`.
        units_scored: int64 (batch,), characters of the scored tokens of a row.
        key_mask: bool (batch, length), True for real tokens. Absent where all are.
        segment_ids: int64 (batch, length), which document of its row each token is of. Absent where
            attention goes across documents.
    """

    key_mask: Tensor
    segment_ids: Tensor


class Window(NamedTuple):
    """Consecutive tokens, of which the last ones are predicted.

    Attributes:
        tokens: int64 (n + 1,): n inputs and the token after them; may be empty.
        scored: How many of the predictions, counted from the end, are scored.
        units: int64 (n + 1,), the units of text of each token; None where each is one.
        restarts: bool (n,), which of the inputs are the first tokens of documents; None where
            documents are not told apart.
    """

    tokens: Tensor
    scored: int
    units: Tensor | None = None
    restarts: Tensor | None = None


def collate(
    windows: Sequence[Window], length: int, continues: bool | None = None, fills: bool = False
) -> LanguageModelBatch:
    """Make a batch (len(windows), length); shorter windows are padded at the end with token 0.

    Args:
        windows: The rows.
        length: Inputs of a row.
        continues: Whether the rows continue those of the batch before, except where a document
            begins; None where they are unrelated.
        fills: Whether windows without an input fill the batch; `filler` then tells which.
    """
    rows = len(windows)
    input_ids = torch.zeros(rows, length, dtype=torch.int64)
    labels = torch.full((rows, length), IGNORE, dtype=torch.int64)
    units = torch.zeros(rows, dtype=torch.int64)
    counted = False
    restarts = torch.zeros(rows, length, dtype=torch.bool)
    for row, window in enumerate(windows):
        n = max(len(window.tokens) - 1, 0)
        first = n - window.scored
        input_ids[row, :n] = window.tokens[:n]
        labels[row, first:n] = window.tokens[first + 1 : n + 1]
        if window.units is not None:
            counted = True
            units[row] = window.units[first + 1 : n + 1].sum()
        if window.restarts is not None:
            restarts[row, :n] = window.restarts[:n]
    batch = LanguageModelBatch(input_ids=input_ids, labels=labels)
    if counted:
        batch["units_scored"] = units
    if fills:
        empty = [len(window.tokens) < 2 for window in windows]
        batch["filler"] = torch.tensor(empty, dtype=torch.bool)
    if continues is not None:
        batch["continues"] = ~restarts[:, 0] if continues else torch.zeros(rows, dtype=torch.bool)
        batch["restarts"] = restarts
    return batch
