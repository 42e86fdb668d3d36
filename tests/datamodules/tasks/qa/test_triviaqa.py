"""TriviaQA: both forms, evidence from folder and archive, spans counted against the raw text."""

import json
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from datamodules import TriviaQA
from datamodules.files.archives import _unpack
from datamodules.files.records import RecordError
from tests.datamodules.tasks.qa.test_squad import marked
from tests.datamodules.tasks.qa.trivia_files import PAIRS, QUESTIONS, SPANS, write_release


@pytest.fixture(scope="module", params=["made up", "real"])
def unpacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release in the official layout as a folder; the real sample where there is one."""
    if request.param == "made up":
        return write_release(tmp_path_factory.mktemp("triviaqa") / "made")
    archive = Path(__file__).parents[5] / "shared" / "data" / "triviaqa-sample.tgz"
    if not archive.is_file():
        pytest.skip("the real samples are not beside this repository")
    folder = tmp_path_factory.mktemp("triviaqa")
    _unpack(archive, folder)
    return folder


def counted(text: str, spellings: list[str]) -> list[str]:
    """Every place of a spelling, found without the code under test: sign by sign."""
    lowered = text.lower()
    assert len(lowered) == len(text)
    found = set()
    for spelling in {s.lower() for s in spellings}:
        for begin in range(len(text)):
            end = begin + len(spelling)
            if lowered[begin:end] != spelling:
                continue
            before, after = lowered[begin - 1 : begin], lowered[end : end + 1]
            word = re.compile(r"\w")
            if spelling[0].isalnum() and word.match(before):
                continue
            if spelling[-1].isalnum() and word.match(after):
                continue
            found.add((begin, end))
    return [text[begin:end] for begin, end in sorted(found)]


@pytest.mark.slow
def test_all_questions_are_read_with_their_evidence_and_spans_equal_the_matches(
    unpacked: Path,
) -> None:
    data = TriviaQA(path=str(unpacked), max_length=100_000, batch_size=99, tokenizer="words")
    questions, pairs, spans = set(), 0, 0
    for split, file in (("train", "wikipedia-train"), ("val", "wikipedia-dev")):
        raw = {
            q["QuestionId"]: q
            for q in json.loads((unpacked / f"qa/{file}.json").read_text())["Data"]
        }
        batch = data._alone().collate(data.examples(split))
        assert len(batch["input_ids"]) == len(batch["ids"]), "one row each: nothing is cut"
        for row, id in enumerate(batch["ids"]):
            question, _, name = id.partition("--")
            assert batch["questions"][row] == question
            text = (unpacked / "evidence" / "wikipedia" / name).read_text(encoding="utf-8")
            assert batch["texts"][row] == text
            answer = raw[question]["Answer"]
            spellings = [answer["Value"], *answer["Aliases"], *answer["NormalizedAliases"]]
            expected = counted(text, spellings)
            assert expected, "each document has its answer"
            assert marked(batch, row) == expected
            assert sorted(batch["answers"][row]) == sorted(answer["NormalizedAliases"])
            questions.add(question)
            pairs += 1
            spans += len(expected)
        listed = {(q, p["Filename"]) for q in raw for p in raw[q]["EntityPages"]}
        assert listed == {tuple(id.split("--")) for id in batch["ids"]}
    made_up = unpacked.name == "made"
    assert (len(questions), pairs, spans) == ((QUESTIONS, PAIRS, SPANS) if made_up else (6, 10, 66))


def test_folder_and_archive_are_the_same(unpacked: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "triviaqa.tgz", "w:gz") as tar:
        for part in ("qa", "evidence"):
            tar.add(unpacked / part, part)
    fields = {"max_length": 512, "long": "chunks"}
    folder = TriviaQA(path=str(unpacked), **fields)
    archive = TriviaQA(path=str(tmp_path / "triviaqa.tgz"), **fields)
    for split in ("train", "val"):
        assert list(folder.examples(split)) == list(archive.examples(split))
        assert len(folder.examples(split)) > 0


def test_documents_together_are_one_text(unpacked: Path) -> None:
    data = TriviaQA(path=str(unpacked), documents="together", max_length=100_000)
    each = TriviaQA(path=str(unpacked), max_length=100_000)
    batch = data._alone().collate(data.examples("val"))
    apart = each._alone().collate(each.examples("val"))
    assert batch["ids"] == batch["questions"] == ["tc_33", "tc_40"]
    texts = [
        text for text, q in zip(apart["texts"], apart["questions"], strict=True) if q == "tc_40"
    ]
    assert batch["texts"][1] == "\n\n".join(texts)
    counts = [sum(s >= 0 for s in starts) for starts in batch["answer_starts"].tolist()]
    parts = [sum(s >= 0 for s in starts) for starts in apart["answer_starts"].tolist()]
    assert counts == [parts[0], parts[1] + parts[2]]


def test_the_web_part_has_pages_of_both_kinds(unpacked: Path) -> None:
    data = TriviaQA(path=str(unpacked), domain="web", max_length=100_000)
    ids = [example.id for example in data.examples("train")]
    assert "tc_3--England.txt" in ids
    assert "tc_3--100/100_1957043.txt" in ids
    assert [id for id, _ in data.references("train")] == ids, "evaluated by question and document"


def release(folder: Path, *questions: Any, files: dict[str, str | bytes]) -> Path:
    (folder / "qa").mkdir(parents=True)
    (folder / "evidence" / "wikipedia").mkdir(parents=True)
    (folder / "qa" / "wikipedia-dev.json").write_text(json.dumps({"Data": questions}))
    for name, text in files.items():
        path = folder / "evidence" / "wikipedia" / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def question(**fields: Any) -> dict[str, Any]:
    return {
        "QuestionId": "q1",
        "Question": "Which city?",
        "Answer": {"Value": "York", "Aliases": ["Eboracum"], "NormalizedAliases": ["york"]},
        "EntityPages": [{"Filename": "a.txt"}],
        **fields,
    }


def test_words_or_anywhere(tmp_path: Path) -> None:
    folder = release(tmp_path, question(), files={"a.txt": "Yorkshire, York, EBORACUM."})
    whole = TriviaQA(path=str(folder), tokenizer="bytes")
    anywhere = TriviaQA(path=str(folder), tokenizer="bytes", whole_words=False)
    for data, found in ((whole, ["York", "EBORACUM"]), (anywhere, ["York", "York", "EBORACUM"])):
        (batch,) = list(data.val_dataloader())
        assert marked(batch, 0) == found


def test_an_answer_that_is_not_in_its_document_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [{"Filename": "a.txt"}, {"Filename": "b.txt"}, {"Filename": "a.txt"}]
    record = question(EntityPages=pages)
    folder = release(tmp_path, record, files={"a.txt": "York.", "b.txt": "Leeds."})
    shutil.copy(folder / "qa" / "wikipedia-dev.json", folder / "qa" / "wikipedia-train.json")
    data = TriviaQA(path=str(folder))
    assert [e.id for e in data.examples("val")] == ["q1--a.txt", "q1--b.txt"]
    assert [e.id for e in data.examples("train")] == ["q1--a.txt"]
    missing = {"answer not found in the text": ["q1--b.txt"]}
    assert data.notes("val") == missing
    assert data.notes("train") == {
        "left out of training: no row has an answer": ["q1--b.txt"],
        **missing,
    }
    assert "1 of 2: answer not found in the text (q1--b.txt)\n" in capsys.readouterr().err


def test_empty_evidence_is_told(tmp_path: Path) -> None:
    records = [
        question(EntityPages=[{"Filename": "a.txt"}, {"Filename": "b.txt"}]),
        question(QuestionId="q2"),
    ]
    folder = release(tmp_path, *records, files={"a.txt": " \n", "b.txt": "York"})
    data = TriviaQA(path=str(folder), documents="together")
    assert [e.id for e in data.examples("val")] == ["q1", "q2"]
    assert data.notes("val") == {
        "empty evidence document": ["q1", "q2"],
        "has no evidence, so it counts as wrong": ["q2"],
        "answer not found in the text": ["q2"],
    }


def test_an_answer_does_not_reach_from_one_document_into_the_next(tmp_path: Path) -> None:
    answer = {"Value": "New York", "Aliases": [], "NormalizedAliases": ["new york"]}
    pages = [{"Filename": "a.txt"}, {"Filename": "b.txt"}]
    texts = {"a.txt": "New York is new", "b.txt": "York is old, New York"}
    folder = release(tmp_path, question(Answer=answer, EntityPages=pages), files=texts)
    data = TriviaQA(path=str(folder), documents="together")
    (batch,) = list(data.val_dataloader())
    assert batch["texts"] == ["New York is new\n\nYork is old, New York"]
    assert batch["answer_starts"].tolist() == [[5, 13]]
    assert marked(batch, 0) == ["New York", "New York"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Answer": {"Aliases": []}}, "Value: is missing; fields there are: Aliases"),
        ({"Answer": {"Value": "x", "Aliases": [1]}}, "Aliases: must be a list of texts"),
        ({"EntityPages": []}, "EntityPages: the question has no evidence"),
        ({"EntityPages": [{}]}, "Filename: is missing"),
        ({"EntityPages": [{"Filename": "no.txt"}]}, r"Filename: there is no .*wikipedia/no\.txt"),
        ({"Question": None}, "Question: must be text, got None"),
    ],
)
def test_each_fault_is_one_line_with_the_id(tmp_path: Path, fields, message: str) -> None:
    folder = release(tmp_path, question(**fields), files={"a.txt": "York"})
    with pytest.raises(RecordError, match=rf"wikipedia-dev\.json: record 'q1': {message}"):
        TriviaQA(path=str(folder)).setup()


def test_evidence_that_is_not_utf8_or_not_there(tmp_path: Path) -> None:
    folder = release(tmp_path, question(), files={"a.txt": b"York \xff"})
    with pytest.raises(RecordError, match=r"'q1--a\.txt': evidence: .*a\.txt: the byte b'\\xff'"):
        TriviaQA(path=str(folder)).setup()
    os.rename(folder / "evidence", tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no evidence folder beside .*name it as evidence"):
        TriviaQA(path=str(folder)).setup()
    (tmp_path / "elsewhere" / "wikipedia" / "a.txt").write_text("York")
    data = TriviaQA(path=str(folder), evidence=str(tmp_path / "elsewhere"))
    assert len(data.examples("val")) == 1


def test_other_evidence_is_encoded_anew(tmp_path: Path) -> None:
    folder = release(tmp_path, question(), files={"a.txt": "York"})
    assert TriviaQA(path=str(folder)).examples("val")[0].fields["text"] == "York"
    (folder / "evidence" / "wikipedia" / "a.txt").write_text("In York")
    assert TriviaQA(path=str(folder)).examples("val")[0].fields["text"] == "In York"


def test_a_test_set_without_answers(tmp_path: Path) -> None:
    record = question()
    del record["Answer"]
    folder = release(tmp_path, files={"a.txt": "York"})
    name = folder / "qa" / "wikipedia-test-without-answers.json"
    name.write_text(json.dumps({"Data": [record]}))
    data = TriviaQA(path=str(folder))
    (batch,) = list(data.predict_dataloader())
    assert batch["answers"] == [[]]
    assert batch["answer_starts"].tolist() == [[-1]]
    assert data.notes("test") == {}


def test_the_form_of_squad_with_aliases(tmp_path: Path) -> None:
    qa = {
        "id": "q1--a.txt",
        "question": "Which city?",
        "aliases": ["york", "eboracum"],
        "answers": [{"text": "York", "answer_start": 3}],
    }
    article = {"paragraphs": [{"context": "In York or Eboracum, york.", "qas": [qa]}]}
    file = tmp_path / "squad-wikipedia-dev-4096.json"
    file.write_text(json.dumps({"version": "0", "data": [article]}))
    data = TriviaQA(path=str(tmp_path))
    (batch,) = list(data.val_dataloader())
    assert marked(batch, 0) == ["York", "Eboracum", "york"]
    assert batch["questions"] == ["q1"]
    assert dict(data.references("val")) == {"q1": ["york", "eboracum", "York"]}


def test_predictions_in_the_official_form() -> None:
    predictions = [
        {"id": "q1--0.txt", "answer": "", "score": None},
        {"id": "q1--a.txt", "answer": "York", "score": 1.0},
        {"id": "q1--b.txt", "answer": "Leeds", "score": 2.0},
        {"id": "q2--a.txt", "answer": "Rome", "score": -5.0},
        {"id": "q1--c.txt", "answer": "Bath", "score": 1.5},
    ]
    wikipedia = TriviaQA(val="x").submission(iter(predictions))
    assert json.loads(wikipedia) == {"q1": "Leeds", "q2": "Rome"}
    web = TriviaQA(val="x", domain="web").submission(predictions)
    assert json.loads(web) == {p["id"]: p["answer"] for p in predictions}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domain": "news"}, "domain must be 'wikipedia' or 'web', got 'news'"),
        ({"documents": "some"}, "documents must be 'each' or 'together', got 'some'"),
        ({"max_question": 0}, "max_question must be an int >= 1, got 0"),
    ],
)
def test_wrong_fields_are_refused(fields, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TriviaQA(path="x", **fields)
