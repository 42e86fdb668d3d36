"""WikiHop: the official form, the real questions, and every fault by name."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import WikiHop
from datamodules.files.records import RecordError


def question(**fields: Any) -> dict[str, Any]:
    return {
        "id": "q1",
        "query": "country somewhere",
        "supports": ["One document .", "Another ( short ) one"],
        "candidates": ["france", "new zealand"],
        "answer": "new zealand",
        **fields,
    }


def data_of(tmp_path: Path, *questions: Any, text: str | None = None, **fields: Any) -> WikiHop:
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(questions) if text is None else text)
    return WikiHop(**{"path": str(tmp_path), **fields})


def test_a_row_is_laid_out_as_in_the_paper(tmp_path: Path) -> None:
    data = data_of(tmp_path, question(), tokenizer="bytes")
    (batch,) = list(data.val_dataloader())
    ids = batch["input_ids"][0].tolist()
    names = {data.tokenizer.mark_id(mark): mark for mark in data.marks}
    names |= {data.tokenizer.first_id: "<s>", data.tokenizer.separator_id: "</s>"}
    text = "".join(names.get(i) or data.decode([i]) for i in ids)
    assert text == (
        "<s>[question]country somewhere[/question][ent]france[/ent][ent]new zealand[/ent]"
        "</s>One document.</s></s>Another (short) one</s>"
    )
    positions = batch["candidate_positions"][0].tolist()
    assert [names[ids[p]] for p in positions] == ["[ent]", "[ent]"]
    assert batch["labels"].tolist() == [1]
    assert batch["candidates"] == [["france", "new zealand"]]
    assert batch["ids"] == ["q1"]


def test_chunks_repeat_the_prefix_and_divide_the_documents(sample: Path) -> None:
    fields = {"val": str(sample / "wikihop-sample.json")}
    whole = WikiHop(**fields, max_length=9999)
    parts = WikiHop(**fields, max_length=512)
    assert [len(e.rows) for e in whole.examples("val")] == [1, 1]
    for one, many in zip(whole.examples("val"), parts.examples("val"), strict=True):
        ids = one.rows[0].tokens.ids
        prefix = many.rows[0].prefix
        assert len(many.rows) == -(-(len(ids) - prefix) // (512 - prefix)) > 1
        assert all(row.tokens.ids[:prefix] == ids[:prefix] for row in many.rows)
        joined = [i for row in many.rows for i in row.tokens.ids[prefix:]]
        assert joined == ids[prefix:], "no token is lost or twice"
        assert all(row.columns == many.rows[0].columns for row in many.rows)
        assert max(many.rows[0].columns["candidates"]) < prefix
    (batch,) = list(parts.val_dataloader())
    counts = [len(e.rows) for e in parts.examples("val")]
    assert batch["example"].tolist() == [0] * counts[0] + [1] * counts[1]
    assert parts.notes("val") == {}


def test_both_real_questions_are_read_with_their_evidence(sample: Path) -> None:
    raw = json.loads((sample / "wikihop-sample.json").read_text())
    data = WikiHop(val=str(sample / "wikihop-sample.json"), tokenizer="bytes", max_length=99999)
    (batch,) = list(data.val_dataloader())
    assert batch["ids"] == [r["id"] for r in raw]
    assert batch["candidates"] == [r["candidates"] for r in raw]
    assert [len(c) for c in batch["candidates"]] == [18, 4]
    assert batch["candidates"][0][batch["labels"][0]] == "german empire"
    for ids, record in zip(batch["input_ids"].tolist(), raw, strict=True):
        text = data.decode(ids)
        words = {word for support in record["supports"] for word in support.split()}
        assert all(word in text for word in words)
        assert ids.count(data.tokenizer.separator_id) == 2 * len(record["supports"])
    assert dict(data.references("val")) == {r["id"]: r["answer"] for r in raw}


def test_cut_instead_of_chunks_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = question(supports=["word " * 100])
    data = data_of(tmp_path, long, question(id="q2"), long="cut", max_length=32)
    assert [len(e.rows) for e in data.examples("val")] == [1, 1]
    assert len(data.examples("val")[0].rows[0].tokens) == 32
    assert data.notes("val") == {"text cut to max_length 32 tokens": ["q1"]}
    told = capsys.readouterr().err
    assert told == "WikiHop val: 1 of 2: text cut to max_length 32 tokens (q1)\n"


def test_the_most_chunks_are_told(tmp_path: Path) -> None:
    long = question(supports=["word " * 100])
    data = data_of(tmp_path, long, max_chunks=2, max_length=32)
    assert [len(e.rows) for e in data.examples("val")] == [2]
    assert data.notes("val") == {"text cut to max_chunks 2": ["q1"]}


def test_a_question_without_its_answer_is_for_prediction(tmp_path: Path) -> None:
    record = question()
    del record["answer"]
    data = data_of(tmp_path, record)
    (batch,) = list(data.val_dataloader())
    assert batch["labels"].tolist() == [-1]
    assert list(data.references("val")) == []


def test_empty_documents_are_left_out_and_told(tmp_path: Path) -> None:
    data = data_of(tmp_path, question(supports=["", "text", "  "]))
    (batch,) = list(data.val_dataloader())
    assert batch["input_ids"][0].tolist().count(data.tokenizer.separator_id) == 2
    assert data.notes("val") == {"empty supporting document left out": ["q1", "q1"]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer": "spain"}, "record 'q1': answer: 'spain' is not one of the 2 candidates"),
        ({"answer": 3}, "record 'q1': answer: must be text, got 3"),
        ({"id": 7}, "record 'number 1': id: must be text, got 7"),
        ({"supports": []}, "record 'q1': supports: must be a list of texts with at least one"),
        ({"supports": ["", " "]}, "record 'q1': supports: all documents are empty"),
        ({"candidates": ["a", None]}, "record 'q1': candidates: must be a list of texts"),
        ({"candidates": ["a", "b", "a"]}, "record 'q1': candidates: 'a' is there twice"),
        ({"query": None}, "record 'q1': query: must be text, got None"),
    ],
)
def test_each_fault_is_one_line_with_the_id(tmp_path: Path, fields, message: str) -> None:
    with pytest.raises(RecordError, match=rf"dev\.json: {message}"):
        data_of(tmp_path, question(**fields)).setup()


def test_missing_fields_duplicates_and_broken_files(tmp_path: Path) -> None:
    record = question()
    del record["supports"]
    with pytest.raises(
        RecordError, match="record 'q1': supports: is missing; fields there are: id"
    ):
        data_of(tmp_path, record).setup()
    with pytest.raises(RecordError, match=r"record 'q1': id: is there twice, first in .*dev\.json"):
        data_of(tmp_path, question(), question()).setup()
    with pytest.raises(RecordError, match=r"record '2': JSON: .*after 1 records, the last .* 'q1'"):
        data_of(tmp_path, text=json.dumps([question(), question(id="q2")])[:-40]).setup()
    (tmp_path / "dev.json").write_bytes(b'[{"id": "\xff"}]')
    with pytest.raises(ValueError, match=r"dev\.json: the byte b'\\xff' at offset 9 is not UTF-8"):
        WikiHop(path=str(tmp_path)).setup()


def test_a_prefix_that_leaves_no_room_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        RecordError, match="record 'q1': length: what every row repeats takes 12 of"
    ):
        data_of(tmp_path, question(), max_length=12).setup()


def test_bad_records_can_be_skipped_and_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [question(), question(id="q2", answer="x"), question(), question(id="q3")]
    data = data_of(tmp_path, *records, skip_bad_records=True)
    assert [e.id for e in data.examples("val")] == ["q1", "q3"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("left out: ")[2].partition(":")[0] for line in lines] == ["answer", "id"]
    assert "1 of 4" in lines[0]
    assert "(q2)" in lines[0]


@pytest.mark.parametrize("form", ["plain", "gz", "zip", "archive"])
def test_plain_and_compressed_files_are_the_same(tmp_path: Path, form: str) -> None:
    text = json.dumps([question()])
    (tmp_path / "data").mkdir()
    path = tmp_path / "data"
    if form == "plain":
        (path / "dev.json").write_text(text)
    elif form == "gz":
        (path / "dev.json.gz").write_bytes(gzip.compress(text.encode()))
    else:
        with zipfile.ZipFile(path / "all.zip", "w") as file:
            file.writestr("qangaroo_v1.1/wikihop/dev.json", text)
            file.writestr("qangaroo_v1.1/medhop/dev.json", "[]")
    fields = {"archive": {"path": str(path / "all.zip")}, "zip": {"path": str(path / "all.zip")}}
    data = WikiHop(**fields.get(form, {"path": str(path)}))
    assert [e.id for e in data.examples("val")] == ["q1"]


def test_predictions_in_the_official_form() -> None:
    text = WikiHop(val="x").submission([{"id": "a", "answer": "caf\u00e9", "scores": [1.0]}])
    assert json.loads(text) == {"a": "caf\u00e9"}


def test_masks_cover_tokens_alone(sample: Path) -> None:
    data = WikiHop(val=str(sample / "wikihop-sample.json"), max_length=300)
    (batch,) = list(data.val_dataloader())
    assert torch.equal(batch["key_mask"], batch["input_ids"] != data.pad_id)
    assert not (batch["global_mask"] & ~batch["key_mask"]).any()
