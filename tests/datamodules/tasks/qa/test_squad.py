"""SQuAD 1 and 2: spans where the file says, no-answer questions, chunks, faults."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import Squad
from datamodules.files.records import RecordError

CONTEXT = "The caf\u00e9 opened in 1999. It was closed by Ann Lee in 2005, and Ann Lee left."


def qa(**fields: Any) -> dict[str, Any]:
    place = CONTEXT.index("Ann Lee")
    return {
        "id": "q1",
        "question": "Who closed it?",
        "answers": [{"text": "Ann Lee", "answer_start": place}],
        **fields,
    }


def data_of(tmp_path: Path, *qas: Any, context: str = CONTEXT, split="val", **fields: Any) -> Squad:
    article = {"title": "t", "paragraphs": [{"context": context, "qas": list(qas)}]}
    file = tmp_path / "squad.json"
    file.write_text(json.dumps({"version": "v2.0", "data": [article]}))
    return Squad(**{split: str(file)}, **fields)


def marked(batch: Any, row: int) -> list[str]:
    """The texts that the marked tokens of a row point at."""
    text = batch["texts"][batch["example"][row]]
    found = []
    for start, end in zip(batch["answer_starts"][row], batch["answer_ends"][row], strict=True):
        assert (start < 0) == (end < 0)
        if start >= 0:
            assert batch["context_mask"][row, start]
            assert batch["context_mask"][row, end]
            offsets = batch["offsets"][row]
            found.append(text[offsets[start, 0] : offsets[end, 1]])
    return found


def test_answers_are_where_the_file_says(tmp_path: Path) -> None:
    data = data_of(tmp_path, qa())
    (batch,) = list(data.val_dataloader())
    assert marked(batch, 0) == ["Ann Lee"], "the second Ann Lee is not the answer"
    assert batch["answers"] == [["Ann Lee"]]
    assert batch["texts"] == [CONTEXT]
    assert batch["questions"] == batch["ids"] == ["q1"]
    assert batch["answerable"].tolist() == [True]
    ids = batch["input_ids"][0].tolist()
    separator = data.tokenizer.separator_id
    assert (ids[0], ids[-1], ids.count(separator)) == (data.tokenizer.first_id, separator, 2)
    first = ids.index(separator) + 1
    inside = torch.zeros(len(ids), dtype=torch.bool)
    inside[first:-1] = True
    assert torch.equal(batch["context_mask"][0], inside)
    assert torch.equal(batch["global_mask"][0], torch.arange(len(ids)) < first - 1)


@pytest.mark.parametrize("tokenizer", ["words", "bytes"])
def test_offsets_give_the_text_back(tmp_path: Path, tokenizer: str) -> None:
    data = data_of(tmp_path, qa(), tokenizer=tokenizer)
    (batch,) = list(data.val_dataloader())
    for token in batch["context_mask"][0].nonzero().flatten():
        start, stop = batch["offsets"][0, token].tolist()
        ids, _ = data.tokenizer.encode(CONTEXT[start:stop])
        assert batch["input_ids"][0, token].item() in ids
    assert (batch["offsets"][~batch["context_mask"]] == 0).all()


def test_several_annotations_are_several_spans(tmp_path: Path) -> None:
    second = CONTEXT.rindex("Ann Lee")
    answers = [
        {"text": "Ann Lee", "answer_start": CONTEXT.index("Ann Lee")},
        {"text": "Ann Lee", "answer_start": CONTEXT.index("Ann Lee")},
        {"text": "Lee", "answer_start": second + 4},
    ]
    (batch,) = list(data_of(tmp_path, qa(answers=answers)).val_dataloader())
    assert marked(batch, 0) == ["Ann Lee", "Lee"]
    assert batch["answers"] == [["Ann Lee", "Lee"]]


def test_a_question_without_an_answer(tmp_path: Path) -> None:
    none = qa(id="q2", is_impossible=True, answers=[])
    data = data_of(tmp_path, qa(), none, split="train", batch_size=2, shuffle=False)
    batch = next(iter(data.train_dataloader()))
    assert batch["answerable"].tolist() == [True, False]
    assert batch["answers"] == [["Ann Lee"], []]
    assert batch["answer_starts"].tolist()[1] == [-1]
    assert data.notes("train") == {}
    assert dict(data.references("train")) == {"q1": ["Ann Lee"], "q2": []}


def test_every_chunk_has_the_question_and_its_own_answers(tmp_path: Path) -> None:
    context = " ".join(f"w{i}" for i in range(60)) + " Ann Lee " + "x " * 30
    answers = [{"text": "Ann Lee", "answer_start": context.index("Ann Lee")}]
    data = data_of(
        tmp_path, qa(answers=answers), context=context, max_length=32, long="chunks", overlap=6
    )
    (batch,) = list(data.val_dataloader())
    rows = len(batch["input_ids"])
    prefix = batch["input_ids"][0].tolist().index(data.tokenizer.separator_id) + 1
    assert (batch["input_ids"][:, :prefix] == batch["input_ids"][0, :prefix]).all()
    found = [marked(batch, row) for row in range(rows)]
    assert [texts for texts in found if texts] == [["Ann Lee"]] * sum(map(bool, found))
    assert 1 <= sum(map(bool, found)) <= 2, "in the overlap it is in two rows"
    seen = {tuple(o) for r in range(rows) for o in batch["offsets"][r].tolist() if o != [0, 0]}
    assert len(seen) == 92
    assert sum(len(row.tokens) for row in data.examples("val")[0].rows) > 92


def test_an_answer_beyond_the_cut_is_told_and_not_trained_on(tmp_path: Path) -> None:
    context = "w " * 60 + "Ann Lee"
    answers = [{"text": "Ann Lee", "answer_start": 120}]
    fields = {"context": context, "max_length": 32}
    data = data_of(tmp_path, qa(answers=answers), split="train", **fields)
    assert len(data.examples("train")) == 0
    assert data.notes("train") == {
        "left out of training: no row has an answer": ["q1"],
        "text cut to max_length 32 tokens": ["q1"],
        "every answer is beyond where the text was cut, or across two chunks": ["q1"],
    }
    with pytest.raises(ValueError, match="Squad has no training examples"):
        data.train_dataloader()
    assert len(data_of(tmp_path, qa(answers=answers), **fields).examples("val")) == 1


def test_a_long_question_is_cut_and_told(tmp_path: Path) -> None:
    data = data_of(tmp_path, qa(question="why " * 60), qa(id="q2"))
    first, second = data.examples("val")
    assert first.rows[0].prefix == 57
    assert second.rows[0].prefix < 10
    assert data.notes("val") == {"question cut to max_question 55 tokens": ["q1"]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answers": [{"text": "Bob", "answer_start": 3}]}, "answers: 'Bob' is not at character 3"),
        ({"answers": [{"text": "Bob"}]}, "answer_start: is missing; fields there are: text"),
        ({"answers": [{"text": "T", "answer_start": -1}]}, "'T' is not at character -1"),
        ({"answers": 5}, "answers: must be a list, got 5"),
        ({"question": None}, "question: must be text, got None"),
        ({"is_impossible": True}, "is_impossible: is true, but there are answers"),
        ({"aliases": "x"}, "aliases: must be a list of texts, got 'x'"),
    ],
)
def test_each_fault_is_one_line_with_the_id(tmp_path: Path, fields, message: str) -> None:
    with pytest.raises(RecordError, match=rf"squad\.json: record 'q1': .*{message}"):
        data_of(tmp_path, qa(**fields)).setup()


def test_faults_of_paragraphs_name_their_place(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="record 'q1': context: is empty"):
        data_of(tmp_path, qa(), context="  ").setup()
    file = tmp_path / "squad.json"
    file.write_text('{"data": [{"paragraphs": [{"qas": []}]}]}')
    with pytest.raises(RecordError, match="'article 1, paragraph 1': context: is missing"):
        Squad(val=str(file)).setup()
    file.write_text('{"data": [7]}')
    with pytest.raises(RecordError, match="'article 1': paragraphs: the record must be an object"):
        Squad(val=str(file)).setup()
    file.write_text('{"data": [')
    with pytest.raises(RecordError, match=r"ends before|cut short"):
        Squad(val=str(file)).setup()


def test_predictions_in_the_official_form() -> None:
    found = Squad(val="x").submission([{"id": "a", "answer": "Lee"}, {"id": "b", "answer": ""}])
    assert json.loads(found) == {"a": "Lee", "b": ""}
