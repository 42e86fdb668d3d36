"""What `evaluate` counts, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_modules.cli import main
from tests.lit_modules.task_files import dump


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # As the command line sets it where it trains.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def evaluate(name: str, file: str, predictions: Any, *words: str) -> dict[str, float]:
    dump(Path("predictions.json"), predictions)
    given = [f"--data={name}", f"--data.val={file}", "--predictions=predictions.json"]
    assert main(["evaluate", *given, *words, "--output=score.json"]) == 0
    found: dict[str, float] = json.loads(Path("score.json").read_text())
    return found


def hotpotqa(**contexts: Any) -> str:
    """A file of questions with the answer "river", each proven by the first sentence of P."""
    page = [["P", ["A river.", "A hill."]]]
    questions = [
        {
            "_id": id,
            "question": "What is it?",
            "answer": "river",
            "context": page if context is None else context,
            "supporting_facts": [["P", 0]],
        }
        for id, context in contexts.items()
    ]
    return dump(Path("hotpot_dev_fullwiki_v1.json"), questions)


RIGHT = {"a": "river", "b": "river", "c": "river", "d": "river"}
PROOF = {id: [["P", 0]] for id in RIGHT}


def test_missing_answers_and_facts_are_counted_apart(capsys: pytest.CaptureFixture[str]) -> None:
    file = hotpotqa(**dict.fromkeys(RIGHT))
    found = evaluate("hotpotqa", file, {"answer": RIGHT, "sp": PROOF})
    assert (found["missing"], found["missing_answers"], found["missing_facts"]) == (0, 0, 0)
    assert found["joint_exact_match"] == 1
    answers = {id: RIGHT[id] for id in "abc"}
    facts = {id: PROOF[id] for id in "d"}
    found = evaluate("hotpotqa", file, {"answer": answers, "sp": facts})
    assert (found["missing"], found["missing_answers"], found["missing_facts"]) == (0, 1, 3)
    assert (found["answer_exact_match"], found["support_exact_match"]) == (0.75, 0.25)
    capsys.readouterr()
    found = evaluate("hotpotqa", file, {"answer": answers})
    assert (found["missing"], found["missing_answers"], found["missing_facts"]) == (1, 1, 4)
    shown = capsys.readouterr().out
    assert [line.split()[-2] for line in shown.splitlines() if "missing_facts" in line] == ["4"]


def test_an_extra_key_of_a_submission_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    file = hotpotqa(a=None)
    given = [f"--data.val={file}", "--predictions=p.json"]
    for whole, said in (
        (
            {"answer": {}, "sp": {}, "evidence": {}},
            "p.json: 'evidence' is none of the keys answer and sp",
        ),
        ({"answer": {"a": "x"}, "sp": []}, "p.json: 'sp' must be an object, got []"),
        ({"answer": {"a": 3}, "sp": {}}, "p.json: the answer to 'a' must be a text, got 3"),
    ):
        dump(Path("p.json"), whole)
        assert main(["evaluate", "--data=hotpotqa", *given]) != 0
        assert said in capsys.readouterr().err


def test_a_question_without_context_counts_as_wrong() -> None:
    file = hotpotqa(a=None, b=[])
    found = evaluate("hotpotqa", file, {"answer": {"a": "river"}, "sp": {"a": [["P", 0]]}})
    assert (found["records"], found["missing"], found["answer_f1"]) == (2, 1, 0.5)


def triviaqa(*questions: dict[str, Any]) -> str:
    for page in ("one", "two"):
        dump(Path(f"evidence/wikipedia/{page}.txt"), "In York.")
    pages = [{"Filename": "one.txt"}, {"Filename": "two.txt"}]
    answer = {"Value": "York", "Aliases": [], "NormalizedAliases": ["york"]}
    data = [
        {"Question": "Where?", "Answer": answer, "EntityPages": pages, **question}
        for question in questions
    ]
    return dump(Path("qa/wikipedia-dev.json"), {"Data": data})


def test_verified_questions_have_figures_of_their_own() -> None:
    mark = "QuestionPartOfVerifiedEval"
    file = triviaqa(
        {"QuestionId": "q1", mark: True}, {"QuestionId": "q2", mark: False}, {"QuestionId": "q3"}
    )
    found = evaluate("triviaqa", file, {"q1": "York", "q2": "Leeds"}, "--rules=triviaqa")
    assert (found["exact_match"], found["verified_exact_match"]) == (pytest.approx(1 / 3), 1)
    # Each has two documents.
    assert (found["records"], found["verified_records"], found["missing"]) == (3, 1, 1)
    file = triviaqa({"QuestionId": "q1"})
    found = evaluate("triviaqa", file, {"q1": "York"}, "--rules=triviaqa")
    assert not any(name.startswith("verified") for name in found)


def test_a_question_without_evidence_is_in_the_denominator() -> None:
    nowhere = {"QuestionId": "q2", "EntityPages": [{"Filename": "no.txt"}]}
    half = {"QuestionId": "q3", "EntityPages": [{"Filename": "one.txt"}, {"Filename": "no.txt"}]}
    file = triviaqa({"QuestionId": "q1"}, nowhere, half)
    words = ["--rules=triviaqa", "--data.skip_bad_records=true"]
    found = evaluate("triviaqa", file, {"q1": "York", "q3": "York"}, *words)
    assert (found["records"], found["missing"]) == (3, 1)
    assert found["exact_match"] == pytest.approx(2 / 3)


def test_singletons_are_scored_where_they_are_predicted() -> None:
    pytest.importorskip("scipy")
    document = {
        "doc_key": "d_0",
        "sentences": [["a", "b", "c", "d"]],
        "speakers": [["", "", "", ""]],
        "clusters": [[[0, 0], [2, 2]], [[1, 1]], [[3, 3]]],
    }
    file = dump(Path("dev.jsonl"), json.dumps(document))
    linked: list[Any] = [[[0, 0], [2, 2]]]
    for clusters, words, left_out, perfect in (
        (linked, [], 2, True),
        (linked, ["--singletons=true"], None, False),
        ([*linked, [[1, 1]]], [], None, False),
        ([*linked, [[1, 1]]], ["--singletons=false"], 2, True),
        ([*linked, [[1, 1]], [[3, 3]]], [], None, True),
    ):
        row = json.dumps({"id": "d_0", "clusters": clusters})
        found = evaluate("ontonotes", file, row, *words)
        assert found.get("gold_singletons_left_out") == left_out
        assert (found["average_f1"] == 1) == perfect
