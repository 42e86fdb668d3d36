"""far-choice: the answer is where it is said to be, and nowhere nearer."""

import itertools

import pytest

from datamodules import FarChoice
from datamodules.tasks.qa.wikihop import WikiHopRecord

SMALL = {"train_examples": 40, "eval_examples": 30, "distance": 50, "batch_size": 10}


@pytest.mark.parametrize("decoys", [0, 1, 3])
def test_the_evidence_is_far_from_the_question(decoys: int) -> None:
    data = FarChoice(decoys=decoys, **SMALL)
    places = set()
    for record in data.good_records("train"):
        assert isinstance(record, WikiHopRecord)
        (support,) = record.supports
        words = support.split()
        assert len(words) == 50 + 32
        assert all(word.startswith("n") for word in words[:50])
        stated = {k: v for k, v in itertools.pairwise(words) if k.startswith("k")}
        assert len(stated) == decoys + 1
        assert stated[record.query] == record.answer
        assert set(stated.values()) <= set(record.candidates)
        assert sum(not word.startswith("n") for word in words) == 2 * (decoys + 1)
        places.add(words.index(record.query))
    assert len(places) > 5


def test_answers_cannot_be_guessed_from_the_place_of_the_candidate() -> None:
    data = FarChoice(**{**SMALL, "train_examples": 400})
    answers = [r.candidates.index(r.answer) for r in data.good_records("train")]
    assert {answers.count(place) > 70 for place in range(4)} == {True}


def test_data_is_a_function_of_the_seed() -> None:
    first, again = FarChoice(**SMALL), FarChoice(**SMALL)
    assert list(first.good_records("val")) == list(again.good_records("val"))
    other = FarChoice(**SMALL, seed=1)
    assert list(first.good_records("val")) != list(other.good_records("val"))
    ids = {split: [r.supports for r in first.good_records(split)] for split in ("train", "val")}
    assert not set(ids["train"]) & set(ids["val"])


def test_batches_and_global_tokens() -> None:
    data = FarChoice(**SMALL)
    batches = list(data.val_dataloader())
    assert [len(batch["ids"]) for batch in batches] == [10, 10, 10]
    batch = batches[0]
    separator = data.tokenizer.separator_id
    for ids, mask in zip(batch["input_ids"].tolist(), batch["global_mask"], strict=True):
        end = ids.index(separator)
        assert mask[:end].all()
        assert not mask[end:].any()
    assert batch["candidate_positions"].shape == (10, 4)
    nobody = FarChoice(**SMALL, global_tokens="none")
    assert not next(iter(nobody.val_dataloader()))["global_mask"].any()
    assert data.notes("train") == {}
    assert len(dict(data.references("test"))) == 30


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"choices": 1}, "choices must be an int >= 2, got 1"),
        ({"decoys": 4}, "decoys must be < choices, which is 4, got 4"),
        ({"values": 3}, "values must be an int >= 4, got 3"),
        ({"spread": 3}, "spread must be an int >= 4, got 3"),
    ],
)
def test_wrong_numbers_are_refused(fields, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FarChoice(**fields)
