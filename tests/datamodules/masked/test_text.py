"""Documents packed into rows, masked the same in every process and after every interruption."""

from pathlib import Path
from typing import Any

import pytest
import torch

import datamodules
from datamodules.language_model.batch import IGNORE
from datamodules.loading.shards import ALONE, Shard
from datamodules.masked.text import MaskedText

SPECIAL = 5  # of the byte vocabulary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(12):
        text = f"document {index} says: " + f"word{index} and more; " * (3 + index)
        (tmp_path / f"{index:02}.txt").write_text(text)
    return tmp_path


def make(folder: Path, **fields: Any) -> MaskedText:
    given: dict[str, Any] = dict(
        files=str(folder / "*.txt"), tokenizer="bytes", sequence_length=64, batch_size=4
    )
    return MaskedText(**{**given, **fields})


def whole(batch: Any) -> torch.Tensor:
    """The text of a batch before it was masked."""
    chosen = batch["labels"] != IGNORE
    return torch.where(chosen, batch["labels"], batch["input_ids"])


def text_of(ids: torch.Tensor) -> str:
    return bytes(int(i) - SPECIAL for i in ids if i >= SPECIAL).decode()


def test_the_name_finds_it() -> None:
    assert datamodules.describe("masked-text").path == "datamodules.masked.text.MaskedText"


def test_evaluation_covers_every_document_once(folder: Path) -> None:
    data = make(folder, val_fraction=0, test_fraction=0, test_files=str(folder / "0*.txt"))
    source = data.eval_source("test", ALONE)
    assert source is not None
    rows = [row for k in range(len(source)) for row in whole(source[k])]
    bodies = torch.cat([row[1:-1] for row in rows])
    documents = [(folder / f"{i:02}.txt").read_text() for i in range(10)]
    # Separators stand between the documents, and behind the last one before padding begins.
    ends = (bodies == 2).nonzero()[:, 0].tolist()
    texts = [text_of(bodies[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    assert texts[:10] == documents
    assert all(row[0] == 1 for row in rows)
    assert all(row[-1] == 2 for row in rows[:-1])


def test_rows_say_what_is_real_and_which_document_a_token_is_of(folder: Path) -> None:
    data = make(folder, segments=True, val_fraction=0, test_files=str(folder / "0*.txt"))
    source = data.eval_source("test", ALONE)
    assert source is not None
    last = source[len(source) - 1]
    key_mask = last["key_mask"]
    assert torch.equal(key_mask, whole(last) != 0)
    assert not key_mask.all()
    assert "key_mask" not in source[0]
    for k in range(len(source)):
        batch = source[k]
        for ids, segments in zip(whole(batch), batch["segment_ids"], strict=True):
            inner = ids[1:-1] == 2
            assert segments[0] == segments[1] == 0
            # A new document begins behind each separator within the row.
            steps = segments[2:-1] - segments[1:-2]
            assert torch.equal(steps.bool(), inner[:-1] & (ids[2:-1] != 0)) or (ids == 0).any()
            assert segments[-1] == segments[-2]
    plain = make(folder, val_fraction=0, test_files=str(folder / "0*.txt"))
    assert "segment_ids" not in plain.eval_source("test", ALONE)[0]  # type: ignore[index]


def test_masks_cover_the_share_and_count_their_characters(folder: Path) -> None:
    source = make(folder).train_source(ALONE)
    chosen = units = total = 0
    for k in range(200):
        batch = source[k]
        scored = batch["labels"] != IGNORE
        # A byte of these texts is a character, a separator none.
        assert torch.equal(batch["units_scored"], scored.sum(1))
        assert not (batch["labels"] < SPECIAL)[scored].any()
        chosen += int(scored.sum())
        units += int(batch["units_scored"].sum())
        total += int((whole(batch) >= SPECIAL).sum())
    assert chosen / total == pytest.approx(0.15, rel=0.05)
    assert units == chosen


def test_validation_masks_are_fixed_and_training_masks_are_not(folder: Path) -> None:
    def batches(split: str, **fields: Any) -> list[Any]:
        data = make(folder, val_fraction=0.3, **fields)
        made = data.train_source(ALONE) if split == "train" else data.eval_source(split, ALONE)
        return [made[k] for k in range(3 if split == "train" else len(made))]  # type: ignore[index, arg-type]

    def flat(found: list[Any]) -> torch.Tensor:
        return torch.cat([batch["labels"] for batch in found])

    # Neither the seed nor the size of a batch changes them.
    assert torch.equal(flat(batches("val")), flat(batches("val", seed=9, eval_batch_size=1)))
    train = batches("train")
    assert torch.equal(flat(train), flat(batches("train")))
    assert not torch.equal(flat(train), flat(batches("train", seed=9)))
    assert not torch.equal(train[0]["input_ids"], train[1]["input_ids"])


def test_processes_share_a_batch(folder: Path) -> None:
    data = make(folder, batch_size=6, segments=True)
    alone = data.train_source(ALONE)[5]
    parts = [data.train_source(Shard(rank, 3))[5] for rank in range(3)]
    for name in ("input_ids", "labels", "units_scored", "segment_ids"):
        assert torch.equal(torch.cat([part[name] for part in parts]), alone[name])
    test = data.eval_source("test", ALONE)
    shards = [data.eval_source("test", Shard(rank, 4)) for rank in range(4)]
    assert test is not None
    scored = sum(int(s[k]["units_scored"].sum()) for s in shards for k in range(len(s)))  # type: ignore[index, arg-type]
    assert scored == sum(int(test[k]["units_scored"].sum()) for k in range(len(test)))


def test_the_stages_set_length_and_position(folder: Path) -> None:
    data = make(folder)
    data.set_stage(stage=1, sequence_length=32, batch_size=2, batches_done=3, batches=5)
    seen = list(data.train_dataloader())
    assert len(seen) == 2
    assert seen[0]["input_ids"].shape == (2, 32)
    other = make(folder)
    other.load_state_dict({**data.state_dict(), "batches_done": 4})
    other.set_stage(stage=1, sequence_length=32, batch_size=2, batches_done=4, batches=5)
    assert torch.equal(next(iter(other.train_dataloader()))["input_ids"], seen[1]["input_ids"])


def test_lines_and_records_are_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one two"}\n{"text": "three </s> four"}\n')
    fields: dict[str, Any] = dict(
        files=str(tmp_path), documents="jsonl", val_fraction=0, test_fraction=0, sequence_length=9
    )
    data = make(tmp_path, **fields)
    data.setup()
    ids = data._packed["train"].tokens.read(0, 99).tolist()
    assert ids.count(2) == 2
    assert data.decode(ids) == "one twothree </s> four"
    lines = make(tmp_path, **{**fields, "documents": "lines"})
    lines.setup()
    assert data._folder != lines._folder


def test_whole_words_reach_the_rows(folder: Path) -> None:
    source = make(folder, whole_words=True, sequence_length=200).train_source(ALONE)
    for k in range(20):
        batch = source[k]
        for ids, labels in zip(whole(batch), batch["labels"], strict=True):
            letters = (ids >= SPECIAL + ord("a")) & (ids <= SPECIAL + ord("z"))
            both = letters[1:] & letters[:-1]
            chosen = labels != IGNORE
            assert torch.equal(chosen[1:][both], chosen[:-1][both])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"documents": "words"}, "documents must be 'files', 'lines' or 'jsonl', got 'words'"),
        ({"mask_share": 1.5}, "mask_share must be > 0 and < 1, got 1.5"),
        ({"sequence_length": 2}, "sequence_length must be an int >= 3, got 2"),
        ({"eval_length": 1}, "eval_length must be an int >= 3, got 1"),
        ({"sequence_length": 9999}, "sequence_length 9999 is longer than the data"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(folder, **fields).train_source(ALONE)
