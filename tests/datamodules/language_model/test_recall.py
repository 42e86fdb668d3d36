"""The recall task asks what it showed, from the chosen distance, and nothing gives it away."""

import pytest
import torch

from datamodules import IGNORE, Recall
from datamodules.loading.shards import Shard


def parse(data: Recall, tokens: torch.Tensor, labels: torch.Tensor) -> list[tuple[int, int]]:
    """For each answer: its distance from the value shown, and whether it is right (1) or not."""
    words = data.decode(tokens.tolist()).split()
    first = next(i for i, word in enumerate(words) if word[0] == "k")
    shown = {words[first + 2 * p]: first + 2 * p + 1 for p in range(data.pairs)}
    answers = []
    for at in (labels != IGNORE).nonzero().flatten().tolist():
        place = shown[words[at]]
        right = data.decode([int(labels[at])]) == words[place]
        answers.append((at - place, int(right)))
    return answers


@pytest.mark.parametrize(
    ("pairs", "queries", "distance", "spare"), [(1, 1, 1, 0), (4, 6, 1000, 0), (3, 2, 20, 13)]
)
def test_answers_are_right_and_lie_far_enough_back(pairs, queries, distance, spare) -> None:
    least = 2 * pairs + distance + queries - 1
    length = least + spare if spare else None
    data = Recall(distance, pairs, queries, sequence_length=length, batch_size=32)
    assert data.sequence_length == least + spare
    batch = data.train_source(Shard())[3]
    assert batch["input_ids"].shape == batch["labels"].shape == (32, least + spare)
    assert batch["input_ids"].max() < data.vocabulary_size == 24
    starts = set()
    nearest = []
    for tokens, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        answers = parse(data, tokens, labels)
        assert len(answers) == queries
        assert all(right for _, right in answers)
        nearest += [d for d, _ in answers]
        starts.add(int((labels != IGNORE).nonzero()[0, 0]))
    assert distance == min(nearest)
    assert max(nearest) == distance + 2 * (pairs - 1) + queries - 1
    assert (len(starts) > 1) == bool(spare)


def test_all_shown_keys_are_asked_for_and_answers_stay_hidden() -> None:
    data = Recall(distance=5, pairs=4, queries=16, batch_size=64)
    batch = data.train_source(Shard())[0]
    shown, asked = batch["input_ids"][:, 0:8:2], batch["input_ids"][:, 12:]
    assert asked.shape == (64, 16)
    assert asked.max() < 8, "only keys stand at the end"
    assert all(set(a) <= set(s) for a, s in zip(asked.tolist(), shown.tolist(), strict=True))
    assert sum(len(set(row)) for row in asked.tolist()) > 64 * 3.8
    assert len({tuple(row) for row in shown.tolist()}) > 50
    assert all(len(set(row)) == 4 for row in shown.tolist())
    assert len(batch["labels"][:, 12:].unique()) == 8


def test_splits_stages_and_seeds_draw_differently() -> None:
    data = Recall(distance=9)
    draws = [data.train_source(Shard())[0], data.eval_source("val", Shard())[0]]
    draws.append(data.eval_source("test", Shard())[0])
    data.set_stage(1, data.sequence_length, 16)
    draws.append(data.train_source(Shard())[0])
    draws.append(Recall(distance=9, seed=1).train_source(Shard())[0])
    texts = {tuple(draw["input_ids"].flatten().tolist()) for draw in draws}
    assert len(texts) == len(draws)


def test_processes_see_the_rows_of_the_whole_batch() -> None:
    data = Recall(distance=9, batch_size=8)
    whole = data.train_source(Shard())[2]
    parts = [data.train_source(Shard(rank, 2))[2] for rank in range(2)]
    for key in whole:
        assert torch.equal(torch.cat([part[key] for part in parts]), whole[key])


def test_words() -> None:
    data = Recall(keys=4, values=3, noise=2)
    assert data.vocabulary_size == 9
    assert data.encode("k0 k3 v0 v2 n1") == [0, 3, 4, 6, 8]
    assert data.decode([0, 3, 4, 6, 8]) == "k0 k3 v0 v2 n1"
    assert data.unit == "token"
    with pytest.raises(ValueError, match="the word 'v3' is outside the vocabulary"):
        data.encode("k0 v3")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"distance": 0}, "distance must be an int >= 1, got 0"),
        ({"pairs": 9}, "keys must be an int >= 9, got 8"),
        ({"queries": 0}, "queries must be an int >= 1, got 0"),
        ({"values": 1}, "values must be an int >= 2, got 1"),
        ({"distance": 100, "sequence_length": 50}, "sequence_length must be >= 117 .* got 50"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recall(**fields)


def test_a_stage_must_hold_the_task() -> None:
    with pytest.raises(ValueError, match=r"sequence_length must be >= 1017 .* got 128"):
        Recall().set_stage(0, 128, 4)
