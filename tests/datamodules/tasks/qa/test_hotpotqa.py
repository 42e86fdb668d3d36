"""HotpotQA: the layout, evidence and its labels, what does not fit, two stages, faults."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import HotpotQA
from datamodules.files.records import RecordError
from tests.datamodules.tasks.qa.test_squad import marked

CONTEXT = [
    ["Alpha", ["Alpha is a thing.", " John Smith saw it."]],
    ["Beta Town", ["Beta Town is here.", "It was built by John Smith.", " It ends."]],
    ["Gamma", ["Gamma is in Beta Town."]],
]


def question(**fields: Any) -> dict[str, Any]:
    return {
        "_id": "h1",
        "question": "Who built it?",
        "answer": "John Smith",
        "type": "bridge",
        "level": "hard",
        "context": CONTEXT,
        "supporting_facts": [["Beta Town", 1], ["Gamma", 0]],
        **fields,
    }


def data_of(tmp_path: Path, *questions: Any, name="hotpot_dev_distractor_v1.json", **fields: Any):
    (tmp_path / name).write_text(json.dumps(questions))
    return HotpotQA(path=str(tmp_path), **fields)


def batch_of(data: HotpotQA, split: str = "val") -> Any:
    return data._alone().collate(data.examples(split))


def test_a_row_is_laid_out_as_in_the_paper(tmp_path: Path) -> None:
    data = data_of(tmp_path, question(), tokenizer="bytes")
    batch = batch_of(data)
    names = {data.tokenizer.mark_id(mark): mark for mark in data.marks}
    names |= {data.tokenizer.first_id: "<s>", data.tokenizer.separator_id: "</s>"}
    ids = batch["input_ids"][0].tolist()
    text = "".join(names.get(i) or data.decode([i]) for i in ids)
    assert text == (
        "<s>[question]Who built it?[/question]"
        "<t>Alpha</t>Alpha is a thing.[sent] John Smith saw it.[sent][/par]"
        "<t>Beta Town</t>Beta Town is here.[sent]It was built by John Smith.[sent] It ends.[sent]"
        "[/par]<t>Gamma</t>Gamma is in Beta Town.[sent][/par]yes no null</s>"
    )
    sentences, paragraphs = batch["sentence_positions"][0], batch["paragraph_positions"][0]
    assert [names[ids[p]] for p in sentences] == ["[sent]"] * 6
    assert [names[ids[p]] for p in paragraphs] == ["<t>"] * 3
    assert batch["facts"] == [
        [
            ("Alpha", 0),
            ("Alpha", 1),
            ("Beta Town", 0),
            ("Beta Town", 1),
            ("Beta Town", 2),
            ("Gamma", 0),
        ]
    ]
    assert batch["sentence_paragraph"].tolist() == [[0, 0, 1, 1, 1, 2]]
    assert batch["sentence_labels"].tolist() == [[0, 0, 0, 1, 0, 1]]
    assert batch["paragraph_labels"].tolist() == [[0, 1, 1]]
    assert batch["gold_facts"] == [[("Beta Town", 1), ("Gamma", 0)]]
    question_end = ids.index(data.tokenizer.mark_id("[/question]"))
    expected = {*range(question_end + 1), *sentences.tolist(), *paragraphs.tolist()}
    assert set(batch["global_mask"][0].nonzero().flatten().tolist()) == expected


def test_offsets_give_titles_and_sentences_back(tmp_path: Path) -> None:
    data = data_of(tmp_path, question(), tokenizer="bytes")
    batch = batch_of(data)
    text, offsets = batch["texts"][0], batch["offsets"][0]
    shown = "".join(text[a:b] for a, b in offsets[batch["context_mask"][0]].tolist())
    assert shown == "".join(title + "".join(sentences) for title, sentences in CONTEXT)
    tokens = batch["input_ids"][0][batch["context_mask"][0]].tolist()
    assert data.decode(tokens) == shown
    assert "Beta Town is here. It was built" in text, "sentences do not run into one another"


def test_the_answer_is_marked_in_supporting_paragraphs(tmp_path: Path) -> None:
    questions = [
        question(),
        question(_id="h2", answer="alpha"),
        question(_id="h3", answer="beta town", supporting_facts=[["Beta Town", 0], ["Gamma", 0]]),
    ]
    data = data_of(tmp_path, *questions)
    batch = batch_of(data)
    beta = batch["texts"][0].index("It was built")
    (start,) = [s for s in batch["answer_starts"][0].tolist() if s >= 0]
    assert batch["offsets"][0, start, 0] > beta, "not the one in Alpha"
    assert marked(batch, 1) == ["Alpha", "Alpha"], "in no supporting paragraph: anywhere"
    assert marked(batch, 2) == ["Beta Town"] * 3, "titles count"


def test_yes_and_no_are_types(tmp_path: Path) -> None:
    unknown = question(_id="h4")
    del unknown["answer"], unknown["supporting_facts"]
    questions = [
        question(answer="yes"),
        question(_id="h2", answer="no"),
        question(_id="h3"),
        unknown,
    ]
    data = data_of(tmp_path, *questions)
    batch = batch_of(data)
    assert batch["answer_type"].tolist() == [1, 2, 0, -1]
    assert [marked(batch, row) for row in range(4)] == [[], [], ["John Smith"], []]
    assert batch["answers"] == [["yes"], ["no"], ["John Smith"], []]
    assert batch["sentence_labels"][3].tolist() == [-1] * 6
    assert batch["paragraph_labels"][3].tolist() == [-1] * 3
    assert batch["gold_facts"][3] == []
    assert data.notes("val") == {}
    references = dict(data.references("val"))
    assert list(references) == ["h1", "h2", "h3"]
    facts = [("Beta Town", 1), ("Gamma", 0)]
    assert references["h3"] == {"answer": "John Smith", "supporting_facts": facts}


def test_rows_of_different_sizes_are_padded(tmp_path: Path) -> None:
    short = question(_id="h2", context=CONTEXT[1:2], supporting_facts=[["Beta Town", 1]])
    batch = batch_of(data_of(tmp_path, question(), short))
    assert batch["sentence_positions"][1].tolist()[3:] == [-1] * 3
    assert batch["sentence_labels"][1].tolist() == [0, 1, 0, -1, -1, -1]
    assert batch["sentence_paragraph"][1].tolist() == [0, 0, 0, -1, -1, -1]
    assert batch["paragraph_labels"][1].tolist() == [1, -1, -1]


@pytest.mark.parametrize("max_length", range(21, 60))
def test_what_does_not_fit_is_left_out_by_whole_sentences(tmp_path: Path, max_length: int) -> None:
    whole = batch_of(data_of(tmp_path, question()))
    data = data_of(tmp_path, question(), max_length=max_length)
    batch = batch_of(data)
    (ids,) = batch["input_ids"].tolist()
    assert len(ids) <= max_length
    facts = batch["facts"][0]
    assert facts == whole["facts"][0][: len(facts)]
    assert ids.count(data.tokenizer.mark_id("[sent]")) == len(facts)
    titles = len({title for title, _ in facts})
    for mark in ("<t>", "</t>", "[/par]"):
        assert ids.count(data.tokenizer.mark_id(mark)) == titles
    assert batch["paragraph_positions"].shape == (1, titles)
    complete = len(facts) == 6
    assert (f"paragraphs cut to max_length {max_length} tokens" in data.notes("val")) != complete
    missing = "supporting facts that are not among the sentences that are kept"
    assert (missing in data.notes("val")) != complete
    next_sentence = [4, 5, 5, 7, 3, 6][len(facts)] + 1 if not complete else 0
    heading = 5 if len(facts) in (2, 5) else 0
    assert complete or len(ids) + next_sentence + heading > max_length, "no room is wasted"


def test_a_length_without_room_for_a_sentence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RecordError, match="'h1': length: no sentence fits into max_length 20 tokens"
    ):
        data_of(tmp_path, question(), max_length=20).setup()


def test_an_answer_that_is_cut_off_is_told_and_not_trained_on(tmp_path: Path) -> None:
    context = [["Delta", ["Nothing is here at all."]], *CONTEXT]
    record = question(context=context)
    fields = {"max_length": 28}
    data = data_of(tmp_path, record, question(_id="h2"), name="hotpot_train_v1.1.json", **fields)
    assert [e.id for e in data.examples("train")] == ["h2"], "its answer is in Alpha as well"
    assert data.notes("train")["left out of training: no row has an answer"] == ["h1"]
    (tmp_path / "hotpot_train_v1.1.json").unlink()
    assert len(data_of(tmp_path, record, **fields).examples("val")) == 1


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_the_second_stage_reads_selected_paragraphs(tmp_path: Path, form: str) -> None:
    chosen = {"h1": ["Gamma", "Beta Town", "Alpha"]}
    file = tmp_path / f"selected.{form}"
    if form == "json":
        file.write_text(json.dumps(chosen))
    else:
        file.write_text(json.dumps({"id": "h1", "paragraphs": chosen["h1"], "answer": "x"}) + "\n")
    all_three = batch_of(data_of(tmp_path, question(), selected=str(file)))
    assert all_three["facts"] == batch_of(data_of(tmp_path, question()))["facts"]
    data = data_of(tmp_path, question(), selected=str(file), most_paragraphs=2)
    facts = batch_of(data)["facts"][0]
    assert [title for title, _ in facts] == ["Beta Town"] * 3 + ["Gamma"], "in the file's order"
    with pytest.raises(
        RecordError, match=rf"'h2': selected: .*selected\.{form} has nothing for it"
    ):
        data_of(tmp_path, question(_id="h2"), selected=str(file)).setup()
    with pytest.raises(RecordError, match="names 'Gamma', which is none of its paragraphs"):
        data_of(tmp_path, question(context=CONTEXT[:2]), selected=str(file)).setup()


def test_another_selection_is_encoded_anew(tmp_path: Path) -> None:
    file = tmp_path / "selected.json"
    for titles in (["Alpha"], ["Beta Town"]):
        file.write_text(json.dumps({"h1": titles}))
        facts = batch_of(data_of(tmp_path, question(), selected=str(file)))["facts"][0]
        assert {title for title, _ in facts} == set(titles)


def test_wrong_selections_and_fields_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "selected.json"
    with pytest.raises(FileNotFoundError, match=r"selected: there is no file '.*selected\.json'"):
        data_of(tmp_path, question(), selected=str(file))
    file.write_text("[1]")
    with pytest.raises(
        ValueError, match=r"selected\.json must be .id: .title, \.\.\.\]., got \[1\]"
    ):
        data_of(tmp_path, question(), selected=str(file)).setup()
    file.write_text('{"h1": "Alpha"}')
    with pytest.raises(
        RecordError, match="'h1': paragraphs: must be a list of titles, got 'Alpha'"
    ):
        data_of(tmp_path, question(), selected=str(file)).setup()
    file.write_text("{")
    with pytest.raises(ValueError, match=r"selected\.json is not valid JSON"):
        data_of(tmp_path, question(), selected=str(file)).setup()
    with pytest.raises(ValueError, match="most_paragraphs needs selected"):
        data_of(tmp_path, question(), most_paragraphs=2)
    with pytest.raises(ValueError, match="long must be 'cut'"):
        data_of(tmp_path, question(), long="chunks")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context": [["A", "text"]]}, r"context: must be \[title, \[sentence, \.\.\.\]\] each"),
        ({"context": {"title": []}}, "context: must be a list"),
        ({"supporting_facts": [["A"]]}, r"supporting_facts: must be \[title, sentence index\]"),
        ({"answer": 7}, "answer: must be text, got 7"),
    ],
)
def test_each_fault_is_one_line_with_the_id(tmp_path: Path, fields, message: str) -> None:
    with pytest.raises(RecordError, match=rf"v1\.json: record 'h1': {message}"):
        data_of(tmp_path, question(**fields)).setup()


EMPTY: list[Any] = [[], [["A", [" "]]]]


@pytest.mark.parametrize("context", EMPTY)
def test_a_question_without_context_counts_as_wrong(tmp_path: Path, context: Any) -> None:
    file = tmp_path / "selected.json"
    file.write_text(json.dumps({"h2": ["Alpha"]}))
    records = [question(context=context), question(_id="h2")]
    data = data_of(tmp_path, *records, name="hotpot_dev_fullwiki_v1.json", selected=str(file))
    assert list(dict(data.references("val"))) == ["h1", "h2"]
    batch = batch_of(data)
    assert batch["ids"] == ["h1", "h2"]
    assert batch["context_mask"].any(1).tolist() == [False, True]
    assert batch["facts"][0] == []
    assert data.notes("val")["has no context, so it counts as wrong"] == ["h1"]


@pytest.mark.parametrize("context", EMPTY)
def test_training_needs_a_context(tmp_path: Path, context: Any) -> None:
    records = [question(context=context), question(_id="h2")]
    with pytest.raises(RecordError, match=r"v1\.1\.json: record 'h1': context: is empty"):
        data_of(tmp_path, *records, name="hotpot_train_v1.1.json").setup()
    data = data_of(tmp_path, *records, name="hotpot_train_v1.1.json", skip_bad_records=True)
    assert [e.id for e in data.examples("train")] == ["h2"]


def test_an_answer_does_not_cross_paragraphs(tmp_path: Path) -> None:
    context = [["One", ["It is in New"]], ["York", ["York is old.", "New York is not."]]]
    facts = [["One", 0], ["York", 0]]
    for answer, found in (("new york", ["New York"]), ("in new york", [])):
        record = question(context=context, answer=answer, supporting_facts=facts)
        data = data_of(tmp_path, record)
        assert marked(batch_of(data), 0) == found
        note = "answer not found in the paragraphs that are kept"
        assert (note in data.notes("val")) == (not found)


def test_a_fact_that_names_no_sentence_is_told(tmp_path: Path) -> None:
    facts = [["Beta Town", 1], ["Gamma", 7]]
    data = data_of(tmp_path, question(supporting_facts=facts))
    batch = batch_of(data)
    assert batch["sentence_labels"].tolist() == [[0, 0, 0, 1, 0, 0]]
    assert batch["gold_facts"] == [[tuple(fact) for fact in facts]], "as the evaluation counts them"
    missing = "supporting facts that are not among the sentences that are kept"
    assert data.notes("val") == {missing: ["h1"]}


def test_predictions_in_the_official_form() -> None:
    predictions = [
        {"id": "h1", "answer": "yes", "supporting_facts": [("A", 0), ("B", 2)]},
        {"id": "h2", "answer": "Bob", "supporting_facts": []},
    ]
    assert json.loads(HotpotQA(val="x").submission(iter(predictions))) == {
        "answer": {"h1": "yes", "h2": "Bob"},
        "sp": {"h1": [["A", 0], ["B", 2]], "h2": []},
    }


def test_the_batch_is_of_the_right_types(tmp_path: Path) -> None:
    batch = batch_of(data_of(tmp_path, question()))
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == (
                torch.bool if name.endswith(("mask", "answerable")) else torch.int64
            )
