"""Rows of masked text: what is in them, how they are masked, and what they cover."""

from __future__ import annotations

import array
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datamodules.language_model.batch import IGNORE
from datamodules.loading.shards import Shard, generator
from datamodules.masked.masking import Masking
from datamodules.masked.sampling import MaskedEvaluation, MaskedRows, MaskedWindows, Packed
from datamodules.tokenizers.token_file import TokenFile

PAD, FIRST, SEPARATOR, MASK = 0, 1, 2, 3
MakeRows = Callable[..., MaskedRows]


@pytest.fixture
def rows_of(tmp_path: Path) -> MakeRows:
    """Makes rows of packed documents; every token stands for 2 characters, separators for none."""

    def make(documents: list[list[int]], length: int, **fields: bool) -> MaskedRows:
        ids = [token for document in documents for token in [*document, SEPARATOR]]
        units = [n for document in documents for n in [*[2] * len(document), 0]]
        (tmp_path / "t").write_bytes(array.array("H", ids).tobytes())
        (tmp_path / "u").write_bytes(array.array("I", units).tobytes())
        (tmp_path / "b").write_bytes(b"\1" * len(ids))
        packed = Packed(
            TokenFile(tmp_path / "t", 2), TokenFile(tmp_path / "u", 4), TokenFile(tmp_path / "b", 1)
        )
        masking = Masking(100, MASK, frozenset({PAD, FIRST, SEPARATOR, MASK}), share=0.5)
        return MaskedRows(packed, length, masking, PAD, FIRST, SEPARATOR, **fields)

    return make


def text_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the rows as they were before masking."""
    labels = batch["labels"]
    return torch.where(labels == IGNORE, batch["input_ids"], labels)


def test_a_row_is_first_token_text_and_separator(rows_of: MakeRows) -> None:
    rows = rows_of([list(range(10, 40))], length=8)
    batch = rows.batch([0, 5], [generator("a"), generator("b")])
    assert text_of(batch).tolist() == [
        [FIRST, *range(10, 16), SEPARATOR],
        [FIRST, *range(15, 21), SEPARATOR],
    ]
    assert "key_mask" not in batch
    assert "segment_ids" not in batch
    scored = (batch["labels"] != IGNORE).sum(1)
    assert batch["units_scored"].tolist() == (2 * scored).tolist()
    assert int(scored.sum()) > 0


def test_a_row_beyond_the_end_is_shorter_or_empty(rows_of: MakeRows) -> None:
    rows = rows_of([[10, 11, 12]], length=8)
    batch = rows.batch([2, 4], [generator("a"), generator("b")])
    assert text_of(batch).tolist() == [[FIRST, 12, SEPARATOR, SEPARATOR, *[PAD] * 4], [PAD] * 8]
    assert batch["key_mask"].tolist() == [[True] * 4 + [False] * 4, [False] * 8]
    assert (batch["labels"][1] == IGNORE).all()
    assert batch["units_scored"][1] == 0


def test_segments_count_documents_also_where_text_holds_the_separator(rows_of: MakeRows) -> None:
    rows = rows_of([[10, SEPARATOR, 11], [12]], length=9, segments=True)
    batch = rows.batch([0], [generator("a")])
    # First token, three tokens and the end of document 0, document 1, and what follows its end.
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1]]


def test_places_and_masks_are_drawn_anew_and_shared_out(rows_of: MakeRows) -> None:
    rows = rows_of([[4 + i % 90 for i in range(500)]], length=12)
    whole = MaskedWindows(rows, 6, seed=1)
    assert len(whole) == 501 // (10 * 6)
    parts = [MaskedWindows(rows, 6, seed=1, shard=Shard(rank, 3)) for rank in range(3)]
    for name, value in whole[4].items():
        assert torch.equal(torch.cat([part[4][name] for part in parts]), value), name
    others = [whole[5], MaskedWindows(rows, 6, seed=2)[4], MaskedWindows(rows, 6, 1, stage=1)[4]]
    for other in others:
        assert not torch.equal(text_of(other), text_of(whole[4]))
        assert not torch.equal(other["labels"] == IGNORE, whole[4]["labels"] == IGNORE)


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 5, 6])
def test_evaluation_covers_the_split_once(rows_of: MakeRows, processes: int, count: int) -> None:
    """Also where the rows of a batch cannot be divided among the processes."""
    rows = rows_of([list(range(10, 83))], length=9)
    parts = [MaskedEvaluation(rows, count, "val", Shard(r, processes)) for r in range(processes)]
    text, scored = [], 0
    for number in range(len(parts[0])):
        for part in parts:
            batch = part[number]
            scored += int(batch["units_scored"].sum())
            for row in text_of(batch):
                text += [token for token in row.tolist() if token >= 10]
    assert text == list(range(10, 83))
    alone = MaskedEvaluation(rows, 100, "val")[0]
    assert scored == int(alone["units_scored"].sum()), "masks depend on split and place alone"
    other = MaskedEvaluation(rows, 100, "test")[0]
    assert not torch.equal(other["labels"], alone["labels"])
