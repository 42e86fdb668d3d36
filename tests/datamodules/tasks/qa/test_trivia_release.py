"""What the official scripts count: missing evidence, and the verified part."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules import TriviaQA
from datamodules.files.records import RecordError
from tests.datamodules.tasks.qa.test_triviaqa import question, release


def write(folder: Path, name: str, *questions: Any, **fields: Any) -> None:
    content = {"Data": questions, "Domain": "Wikipedia", **fields}
    (folder / "qa" / name).write_text(json.dumps(content))


def pages(*names: str) -> list[dict[str, Any]]:
    return [{"Filename": f"{name}.txt"} for name in names]


@pytest.mark.parametrize("documents", ["each", "together"])
def test_a_question_keeps_the_documents_that_are_there(tmp_path: Path, documents: str) -> None:
    folder = release(tmp_path, question(EntityPages=pages("no", "a")), files={"a.txt": "York"})
    data = TriviaQA(path=str(folder), documents=documents)
    (example,) = data.examples("val")
    assert example.fields["text"] == "York"
    assert example.fields["question"] == "q1"
    assert data.notes("val") == {"some of its evidence documents are not there": [example.id]}
    assert dict(data.references("val")) == {"q1": ["york"]}


def test_a_question_without_evidence_counts_as_wrong(tmp_path: Path) -> None:
    questions = [question(), question(QuestionId="q2", EntityPages=pages("no"))]
    questions.append(question(QuestionId="q3", EntityPages=[]))
    folder = release(tmp_path, *questions, files={"a.txt": "York"})
    write(folder, "wikipedia-train.json", *questions)
    # A wrong folder of evidence must not pass for a hard question.
    with pytest.raises(RecordError, match=r"record 'q2': Filename: there is no .*no\.txt"):
        TriviaQA(path=str(folder)).setup()
    data = TriviaQA(path=str(folder), skip_bad_records=True)
    assert [e.id for e in data.examples("val")] == ["q1--a.txt", "q2--no.txt", "q3"]
    assert list(dict(data.references("val"))) == ["q1", "q2", "q3"]
    assert data.notes("val")["has no evidence, so it counts as wrong"] == ["q2--no.txt", "q3"]
    (batch,) = list(data.val_dataloader())
    assert batch["context_mask"].any(1).tolist() == [True, False, False]
    assert [e.id for e in data.examples("train")] == ["q1--a.txt"]


def test_on_the_web_each_pair_is_scored(tmp_path: Path) -> None:
    found = pages("a", "no")
    folder = release(tmp_path, question(EntityPages=found), files={"a.txt": "York"})
    write(folder, "web-dev.json", question(EntityPages=found))
    data = TriviaQA(path=str(folder), domain="web")
    assert list(dict(data.references("val"))) == ["q1--a.txt", "q1--no.txt"]
    assert [e.id for e in data.examples("val")] == ["q1--a.txt", "q1--no.txt"]


VERIFIED = {"QuestionPartOfVerifiedEval": True}
NOT = {"QuestionPartOfVerifiedEval": False}


def verified(data: TriviaQA) -> list[str]:
    return list(dict(data.verified_references("val")))


def test_verified_questions_are_those_that_are_marked(tmp_path: Path) -> None:
    questions = [question(**NOT), question(QuestionId="q2", **VERIFIED)]
    folder = release(tmp_path, *questions, files={"a.txt": "York"})
    data = TriviaQA(path=str(folder))
    assert list(dict(data.references("val"))) == ["q1", "q2"]
    assert dict(data.verified_references("val")) == {"q2": ["york"]}


def test_verified_questions_stand_in_a_file_beside(tmp_path: Path) -> None:
    questions = [question(), question(QuestionId="q2"), question(QuestionId="q3")]
    folder = release(tmp_path, *questions, files={"a.txt": "York"})
    assert verified(TriviaQA(path=str(folder))) == []
    marked = [question(**NOT), question(QuestionId="q2", **VERIFIED)]
    write(folder, "verified-wikipedia-dev.json", *marked, VerifiedEval=True)
    data = TriviaQA(path=str(folder))
    assert list(dict(data.references("val"))) == ["q1", "q2", "q3"]
    assert verified(data) == ["q2"]
    assert verified(TriviaQA(path=str(folder), limit=1)) == []


def test_of_a_verified_file_only_what_is_verified_is_read(tmp_path: Path) -> None:
    folder = release(tmp_path, files={"a.txt": "York", "b.txt": "York"})
    # A question may speak of the mark; what decides is the mark of the file.
    marked = [question(Question='is "VerifiedEval": true?', **NOT)]
    marked.append(question(QuestionId="q2", **VERIFIED))
    for whole in (True, False):
        write(folder, "verified-wikipedia-dev.json", *marked, VerifiedEval=whole)
        data = TriviaQA(val=str(folder / "qa" / "verified-wikipedia-dev.json"))
        ids = [e.fields["question"] for e in data.examples("val")]
        assert ids == (["q2"] if whole else ["q1", "q2"])
        assert verified(data) == ["q2"]


def test_on_the_web_a_verified_pair_has_a_verified_document(tmp_path: Path) -> None:
    folder = release(tmp_path, files={"a.txt": "York", "b.txt": "York"})
    good, other = pages("a", "b")
    good["DocPartOfVerifiedEval"], other["DocPartOfVerifiedEval"] = True, False
    marked = question(EntityPages=[good, other], **VERIFIED)
    write(folder, "web-dev.json", marked)
    data = TriviaQA(path=str(folder), domain="web")
    assert list(dict(data.references("val"))) == ["q1--a.txt", "q1--b.txt"]
    assert verified(data) == ["q1--a.txt"]
    write(folder, "web-dev.json", marked, VerifiedEval=True)
    data = TriviaQA(path=str(folder), domain="web")
    assert list(dict(data.references("val"))) == ["q1--a.txt"]
