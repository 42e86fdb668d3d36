"""Documents with classes: fields, classes, splits by file, share and group, and what is refused."""

import csv
import io
import json
from collections import Counter

import pytest
import torch

import datamodules
from datamodules.files.records import RecordError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(count, prefix="r"):
    return [
        {
            "id": f"{prefix}{i}",
            "text": f"text {prefix} {i}",
            "label": "abc"[i % 3],
            "by": str(i // 4),
        }
        for i in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train.jsonl", rows_of(9))
    write(tmp_path / "dev.jsonl", rows_of(4, "d"))
    return str(tmp_path)


def ids(data, split):
    return [example.id for example in data.examples(split)]


def test_batches(folder):
    data = datamodules.get("documents", path=folder, batch_size=4)
    assert data.task == "classification"
    assert (data.classes, data.class_names) == (3, ("a", "b", "c"))
    (batch,) = data.val_dataloader()
    assert batch["ids"] == ["d0", "d1", "d2", "d3"]
    assert batch["labels"].tolist() == [0, 1, 2, 0]
    assert batch["labels"].dtype == torch.int64
    assert batch["global_mask"].nonzero().tolist() == [[i, 0] for i in range(4)]
    assert batch["key_mask"].all()
    first, *middle, last = batch["input_ids"][0].tolist()
    assert (first, last) == (data.tokenizer.first_id, data.tokenizer.separator_id)
    assert middle == data.tokenizer.encode("text d 0")[0]


def test_fields_of_other_names_and_kinds(tmp_path):
    rows = [{"n": i, "body": f"x {i}", "good": i % 2 == 0} for i in range(4)]
    file = write(tmp_path / "x.jsonl", rows)
    data = datamodules.get(
        "documents", train=file, text_field="body", label_field="good", id_field="n"
    )
    assert data.class_names == ("false", "true")
    assert ids(data, "train") == ["0", "1", "2", "3"]
    assert [example.fields["label"] for example in data.examples("train")] == [1, 0, 1, 0]


def test_whole_numbers_are_classes_in_their_order(tmp_path):
    rows = [{"text": f"x{i}", "label": i} for i in (10, 2, 0, 1)]
    data = datamodules.get("documents", train=write(tmp_path / "x.jsonl", rows))
    assert data.class_names == ("0", "1", "2", "10")
    assert ids(data, "train")[0] == "x.jsonl:line 1"


def test_csv(tmp_path):
    (tmp_path / "train.csv").write_text('text,label\n"one, two",no\nthree,yes\n')
    data = datamodules.get("documents", path=str(tmp_path), label_names=["yes", "no"])
    assert [example.fields["label"] for example in data.examples("train")] == [1, 0]
    assert ids(data, "train") == ["train.csv:row 1", "train.csv:row 2"]


def test_groups_stay_together(tmp_path):
    file = write(tmp_path / "x.jsonl", rows_of(200))
    seen = []
    for seed in (0, 1):
        data = datamodules.get(
            "documents",
            train=file,
            group_field="by",
            val_fraction=0.2,
            test_fraction=0.2,
            split_seed=seed,
        )
        groups = {
            split: {record.group for record in data.good_records(split)}
            for split in ("train", "val", "test")
        }
        assert all(groups.values())
        assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 50
        assert sum(len(data.examples(split)) for split in groups) == 200
        seen.append(groups)
    assert seen[0] != seen[1]


def test_groups_that_are_named(tmp_path):
    file = write(tmp_path / "x.jsonl", rows_of(12))
    fields = {"train": file, "group_field": "by"}
    data = datamodules.get("documents", **fields, val_groups=["1"], test_groups=["2"])
    assert ids(data, "val") == ["r4", "r5", "r6", "r7"]
    assert ids(data, "test") == ["r8", "r9", "r10", "r11"]
    assert ids(data, "train") == ["r0", "r1", "r2", "r3"]
    with pytest.raises(ValueError, match="test_groups: no record has by 7"):
        datamodules.get("documents", **fields, test_groups=["2", "7"]).setup()
    with pytest.raises(ValueError, match="group '1' is in val_groups and in test_groups"):
        datamodules.get("documents", **fields, val_groups=["1"], test_groups=["1"])
    with pytest.raises(ValueError, match="val_groups and test_groups need group_field"):
        datamodules.get("documents", train=file, val_groups=["1"])
    other = write(tmp_path / "v.jsonl", rows_of(2, "v"))
    with pytest.raises(ValueError, match="val_groups: the val split has files of its own"):
        datamodules.get("documents", **fields, val=other, val_groups=["1"]).setup()


def test_a_label_outside_the_set_is_named_or_left_out_and_told(folder, capsys):
    data = datamodules.get("documents", path=folder, label_names=["a", "b"])
    match = "train.jsonl: record 'r2': label: 'c' is none of the classes a, b"
    with pytest.raises(RecordError, match=match):
        data.setup()
    fields = {"label_names": ["a", "b"], "skip_bad_records": True}
    data = datamodules.get("documents", path=folder, **fields)
    assert ids(data, "train") == ["r0", "r1", "r3", "r4", "r6", "r7"]
    assert "3 of 9: left out: label: 'c' is none of the classes a, b (r2, r5, r8)" in (
        capsys.readouterr().err
    )


def test_without_labels_there_are_predictions_only(folder, tmp_path):
    write(
        tmp_path / "test.jsonl", [{"id": "t", "text": "x"}, {"id": "u", "text": "y", "label": "b"}]
    )
    data = datamodules.get("documents", path=folder)
    (batch,) = data.predict_dataloader()
    assert batch["labels"].tolist() == [-1, 1]
    assert data.notes("test") == {"no label, so it is not scored": ["t"]}
    assert list(data.references("test")) == [("u", 1)]
    predictions = [{"id": "t", "label": 2, "scores": [0, 0, 1]}, {"id": "u", "label": 0}]
    lines = [json.loads(line) for line in data.submission(predictions).splitlines()]
    assert lines == [{"id": "t", "label": "c"}, {"id": "u", "label": "a"}]
    data = datamodules.get("documents", path=folder, submission_format="csv")
    assert [*csv.DictReader(io.StringIO(data.submission(predictions)))] == lines


def test_a_text_that_is_also_held_out_is_named(folder, tmp_path):
    write(tmp_path / "test.jsonl", [{"id": "t", "text": "text  r 5", "label": "a"}])
    match = r"train\.jsonl: record 'r5': text: is also that of a held-out record, 't' of .*\(test\)"
    with pytest.raises(RecordError, match=match):
        datamodules.get("documents", path=folder).setup()
    left_out = datamodules.get("documents", path=folder, skip_bad_records=True)
    assert "r5" not in ids(left_out, "train")
    assert ids(left_out, "test") == ["t"]
    kept = datamodules.get("documents", path=folder, keep_shared=True)
    assert "r5" in ids(kept, "train")


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"id": "q", "text": " ", "label": "a"}, "record 'q': text: is empty"),
        ({"id": "q", "text": 3, "label": "a"}, "record 'q': text: must be text, got 3"),
        ({"id": "q", "label": "a"}, "record 'q': text: is missing; fields there are: id, label"),
        ({"id": "q", "text": "x"}, "record 'q': label: is missing; fields there are: id, text"),
        ({"id": "q", "text": "x", "label": None}, "record 'q': label: is empty"),
        ({"id": "q", "text": "x", "label": [1]}, r"record 'q': label: must be a text .*got \[1\]"),
        ({"id": "r1", "text": "x", "label": "a"}, "record 'r1': id: is there twice"),
        ({"id": None, "text": "x", "label": "a"}, "record 'line 10': id: is missing"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, row, match):
    file = write(tmp_path / "train.jsonl", [*rows_of(9), row])
    with pytest.raises(RecordError, match=match):
        datamodules.get("documents", train=file, label_names=["a", "b", "c"]).setup()


def test_a_file_cut_short_is_named(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text('{"text": "x", "label": "a"}\n{"text": "y", "la')
    with pytest.raises(RecordError, match=r"train\.jsonl: record 'line 2': line: not valid JSON"):
        datamodules.get("documents", train=str(file), label_names=["a", "b"]).setup()


def test_one_class_is_refused(tmp_path):
    file = write(tmp_path / "x.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": "a"}])
    with pytest.raises(ValueError, match=r"label_field 'label' must have two or more .* have 'a'"):
        _ = datamodules.get("documents", train=file).classes
    with pytest.raises(ValueError, match=r"label_names must be two or more different .*\['a'\]"):
        datamodules.get("documents", train=file, label_names=["a"])
    with pytest.raises(ValueError, match="submission_format must be jsonl or csv, got 'xml'"):
        datamodules.get("documents", train=file, submission_format="xml")


def test_a_long_document_is_cut_and_told_or_becomes_several_rows(tmp_path):
    rows = [{"id": i, "text": "word " * 50, "label": "ab"[i]} for i in range(2)]
    file = write(tmp_path / "x.jsonl", rows)
    cut = datamodules.get("documents", train=file, max_length=16, batch_size=2)
    (batch,) = cut.train_dataloader()
    assert batch["input_ids"].shape == (2, 16)
    assert cut.notes("train") == {"text cut to max_length 16 tokens": ["0", "1"]}
    fields = {"max_length": 16, "overlap": 2, "batch_size": 2, "long": "chunks"}
    (batch,) = datamodules.get("documents", train=file, **fields).train_dataloader()
    assert batch["example"].tolist() == [0] * 4 + [1] * 4
    assert len(batch["labels"]) == 2


@pytest.mark.slow
def test_state_of_the_union_by_president(sample):
    fields = {
        "train": str(sample / "state-of-the-union.jsonl.gz"),
        "label_field": "party",
        "group_field": "name",
        "val_groups": ["Jimmy Carter", "Gerald R Ford"],
        "test_groups": ["Barack Obama", "George W Bush"],
        "label_names": ["Democratic", "Republican"],
        "skip_bad_records": True,
        "max_length": 32,
    }
    data = datamodules.get("documents", **fields)
    speeches = [record for split in data.splits() for record in data.good_records(split)]
    assert len(speeches) == 233
    assert len({record.text for record in speeches}) == 233
    counts = {
        split: Counter(example.fields["label"] for example in data.examples(split))
        for split in data.splits()
    }
    assert counts["test"] == {0: 8, 1: 8}
    assert counts["val"] == {0: 4, 1: 3}
    left_out = [
        i for s in data.splits() for n, who in data.notes(s).items() if "label" in n for i in who
    ]
    assert len(left_out) + sum(map(Counter.total, counts.values())) == 233
    every = datamodules.get("documents", **fields | {"label_names": None})
    assert every.classes == 8
