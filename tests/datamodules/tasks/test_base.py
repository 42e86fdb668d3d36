"""The base of the tasks, by a small task: files, encoding, cache, batches."""

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.files.records import RecordError
from datamodules.loading.shards import Shard
from datamodules.tasks.base import padded
from datamodules.tasks.rows import Example
from tests.datamodules.language_model.test_base import Recorder, assert_same, every_step, trainer_of
from tests.datamodules.tasks.toy import Text, Toy, records_of, write

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"
    ),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


def test_a_batch_holds_padded_rows_with_masks(folder: str) -> None:
    data = Toy(path=folder, batch_size=3)
    (first, second) = list(data.val_dataloader())
    assert first["ids"] + second["ids"] == ["d0", "d1", "d2", "d3", "d4"]
    batch = first
    assert batch["input_ids"].shape == batch["key_mask"].shape == batch["global_mask"].shape
    assert batch["key_mask"].sum(1).tolist() == [4, 5]
    assert torch.equal(batch["input_ids"] != data.pad_id, batch["key_mask"])
    assert batch["global_mask"].nonzero().tolist() == [[0, 0], [1, 0]]
    assert batch["example"].tolist() == [0, 1]
    assert batch["labels"].tolist() == [0, 1]
    assert batch["input_ids"][0, 0] == data.tokenizer.first_id
    assert data.test_dataloader() == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_run_sees_exactly_the_rest(folder: str, tmp_path: Path, num_workers: int) -> None:
    fields = {"batch_size": 4, "num_workers": num_workers}
    whole = Recorder()
    trainer_of(tmp_path, every_step(tmp_path)).fit(whole, datamodule=Toy(path=folder, **fields))
    assert len(whole.seen) == 9
    assert whole.validated == 6, "two batches of five examples, three times"
    for step in (1, 3, 7):
        model = Recorder()
        trainer_of(tmp_path / "again").fit(
            model, datamodule=Toy(path=folder, **fields), ckpt_path=tmp_path / f"step={step}.ckpt"
        )
        assert_same(model.seen, whole.seen[step:])


class Encoding(Toy):
    """Counts what it encodes, in a file."""

    def encode(self, record: Text, split: str) -> Example:
        with Path(self.cache_dir or "", "calls").open("a") as file:
            file.write(f"{record.id}\n")
        return super().encode(record, split)


def test_examples_are_encoded_once_for_the_same_content_and_settings(
    folder: str, tmp_path: Path
) -> None:
    cache = tmp_path / "c"
    cache.mkdir()

    def calls(**fields: Any) -> int:
        (cache / "calls").write_text("")
        Encoding(path=folder, cache_dir=str(cache), **fields).setup()
        return len((cache / "calls").read_text().split())

    assert calls() == 15
    assert calls() == 0
    assert calls(batch_size=2, seed=3, global_tokens="none", shuffle=False, overlap=7) == 0
    assert calls(max_length=64) == 15
    assert calls(tokenizer="bytes") == 15
    assert calls(long="chunks") == calls(long="chunks", overlap=3) == 15
    assert calls(limit=2) == 4
    write(Path(folder) / "dev.jsonl", records_of(4, "d"))
    assert calls() == 14
    assert calls() == 0


def test_shares_of_the_training_records_are_held_out_for_good(folder: str) -> None:
    write(Path(folder) / "train.jsonl", records_of(400))
    (Path(folder) / "dev.jsonl").unlink()
    fields = {"val_fraction": 0.2, "test_fraction": 0.1}
    data = Toy(path=folder, **fields)
    ids = {split: {e.id for e in data.examples(split)} for split in ("train", "val", "test")}
    assert set.union(*ids.values()) == {f"r{i}" for i in range(400)}
    assert sum(map(len, ids.values())) == 400
    assert 55 < len(ids["val"]) < 105
    assert 20 < len(ids["test"]) < 60
    write(Path(folder) / "train.jsonl", records_of(500))
    more = Toy(path=folder, **fields)
    for split, before in ids.items():
        assert before <= {e.id for e in more.examples(split)}, "a record stays in its split"


def test_records_with_one_key_stay_together(folder: str) -> None:
    class ByClass(Toy):
        """Those of one class are in one split."""

        def split_key(self, record: Text) -> str:
            return f"class {record.label}"

    (Path(folder) / "dev.jsonl").unlink()
    data = ByClass(path=folder, val_fraction=0.5)
    labels = [{e.fields["label"] for e in data.examples(s)} for s in ("train", "val")]
    assert not labels[0] & labels[1]


def test_official_files_go_before_shares(folder: str) -> None:
    data = Toy(path=folder, val_fraction=0.5)
    assert len(data.examples("train")) == 10
    assert [e.id for e in data.examples("val")] == ["d0", "d1", "d2", "d3", "d4"]


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        ({}, ["d0", "d1", "d2", "d3", "d4"]),
        ({"predict_split": "train", "limit": 3}, ["r0", "r1", "r2"]),
        ({"predict_split": "test"}, []),
    ],
)
def test_predictions_are_made_on_the_split_that_is_named(folder: str, fields, ids) -> None:
    data = Toy(path=folder, **fields)
    assert [id for batch in data.predict_dataloader() for id in batch["ids"]] == ids


def test_labels_outside_the_set_and_missing_texts_are_told(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [*records_of(3), {"id": "x", "text": "t", "label": 5}, {"id": "y", "label": 0}]
    write(Path(folder) / "train.jsonl", bad)
    with pytest.raises(RecordError, match=r"train\.jsonl: record '[xy]': (label|text): "):
        Toy(path=folder).setup()
    data = Toy(path=folder, skip_bad_records=True)
    assert len(data.examples("train")) == 3
    assert data.notes("train") == {
        "left out: text: is missing; fields there are: id, label": ["y"],
        "left out: label: not 0 or 1: 5": ["x"],
    }
    assert capsys.readouterr().err.splitlines() == [
        "Toy train: 1 of 5: left out: text: is missing; fields there are: id, label (y)",
        "Toy train: 1 of 5: left out: label: not 0 or 1: 5 (x)",
    ]
    assert data.sizes("train") == {"records": 5, "examples": 3}


def test_a_bad_record_is_counted_once_over_all_splits(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad: list[Any] = [*records_of(40), {"id": "y", "label": 0}, {**records_of(1)[0]}]
    write(Path(folder) / "train.jsonl", bad)
    (Path(folder) / "dev.jsonl").unlink()
    data = Toy(path=folder, val_fraction=0.3, test_fraction=0.3, skip_bad_records=True)
    sizes = [data.sizes(split) for split in ("train", "val", "test")]
    assert sum(size["records"] for size in sizes) == 42
    assert sum(size["examples"] for size in sizes) == 40
    assert capsys.readouterr().err.count("left out") == 2
    assert sum(sum(map(len, data.notes(split).values())) for split in data.splits()) == 2


def test_it_is_told_once_unless_it_is_asked_for(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(**attributes: Any) -> str:
        data = Toy(path=folder, max_length=10)
        vars(data).update(attributes)
        data.prepare_data()
        data.setup()
        return capsys.readouterr().err

    long = [{**record, "text": "word " * 20} for record in records_of(9)]
    write(Path(folder) / "train.jsonl", long)
    first = told(verbose=True)
    assert first.count("Toy train: 9 of 9: text cut to max_length 10 tokens") == 1
    assert told() == ""
    assert told(verbose=True) == first


def test_many_ids_are_told_in_one_line(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    long = [{**record, "text": "word " * 20} for record in records_of(9)]
    write(Path(folder) / "train.jsonl", long)
    data = Toy(path=folder, max_length=10)
    assert len(data.notes("train")["text cut to max_length 10 tokens"]) == 9
    assert capsys.readouterr().err == (
        "Toy train: 9 of 9: text cut to max_length 10 tokens (r0, r1, r2, r3, r4 and 4 more)\n"
    )


def test_another_seed_is_another_order(folder: str) -> None:
    def order(**fields: Any) -> list[str]:
        loader = Toy(path=folder, batch_size=10, **fields).train_dataloader()
        return next(iter(loader))["ids"]

    assert order() == order() != order(seed=1)
    assert order(shuffle=False) == [f"r{i}" for i in range(10)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": 4}, "max_length must be an int >= 8, got 4"),
        ({"long": "fold"}, "long must be 'cut' or 'chunks', got 'fold'"),
        ({"overlap": -1}, "overlap must be an int >= 0, got -1"),
        ({"max_chunks": 0}, "max_chunks must be an int >= 1, got 0"),
        ({"limit": 0}, "limit must be an int >= 1, got 0"),
        ({"val_fraction": 1.5}, "val_fraction must be >= 0 and < 1, got 1.5"),
        ({"preprocess_workers": -1}, "preprocess_workers must be an int >= 0, got -1"),
        ({"predict_split": "dev"}, "predict_split must be train, val or test, got 'dev'"),
        ({"batch_size": 0}, "batch_size must be an int >= 1, got 0"),
    ],
)
def test_wrong_fields_are_refused(fields, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Toy(path="x", **fields)


def test_an_overlap_that_leaves_no_room_is_told(folder: str) -> None:
    message = "'r0': length: .* takes 2 of max_length 20 tokens, at least 21 must be left; .* lower"
    with pytest.raises(RecordError, match=message):
        Toy(path=folder, long="chunks", max_length=20, overlap=20).setup()


def test_a_batch_that_cannot_be_divided_is_refused(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Toy(path=folder, batch_size=3)
    monkeypatch.setattr(data, "_shard", lambda: Shard(0, 2))
    with pytest.raises(ValueError, match="batch_size 3 cannot be divided among 2 processes"):
        data.train_dataloader()


def test_padded_has_a_column_at_least() -> None:
    assert padded([[1], [2, 3]]).tolist() == [[1, -1], [2, 3]]
    assert padded([[], []]).tolist() == [[-1], [-1]]
    assert padded([[5]], fill=0).dtype == torch.int64
