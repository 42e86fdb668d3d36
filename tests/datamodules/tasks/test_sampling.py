"""Training sees everything each pass in a new order; evaluation everything once, on any machine."""

import itertools
from collections import Counter

import pytest

from datamodules.loading.shards import Shard
from datamodules.tasks.sampling import EvaluationExamples, ShuffledExamples


def batch_of(examples):
    return {"ids": list(examples)}


def shuffled(count: int, batch: int, **fields) -> ShuffledExamples:
    return ShuffledExamples(range(count), batch_of, batch, **{"seed": 0, **fields})


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (8, 8), (3, 5), (1, 1), (12, 3)])
def test_each_pass_has_every_example_once(count: int, batch: int) -> None:
    source = shuffled(count, batch)
    batches = [source[k]["ids"] for k in range(3 * count)]
    assert all(len(ids) == batch for ids in batches)
    stream = list(itertools.chain(*batches))
    for begin in range(0, len(stream), count):
        assert sorted(stream[begin : begin + count]) == list(range(count))
    assert len(source) == -(-count // batch)


def test_orders_depend_on_seed_stage_and_pass_alone() -> None:
    source = shuffled(50, 10)
    passes = [[source[5 * p + k]["ids"] for k in range(5)] for p in range(3)]
    assert passes[0] != passes[1] != passes[2]
    assert [shuffled(50, 10)[k]["ids"] for k in (9, 2)] == [source[9]["ids"], source[2]["ids"]]
    for other in (shuffled(50, 10, seed=1), shuffled(50, 10, stage=1)):
        assert other[0]["ids"] != source[0]["ids"]
    assert shuffled(50, 10, shuffle=False)[6]["ids"] == list(range(10, 20))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batch_of_one(processes: int) -> None:
    alone = shuffled(10, 6)
    parts = [shuffled(10, 6, shard=Shard(rank, processes)) for rank in range(processes)]
    for k in range(7):
        assert list(itertools.chain(*(part[k]["ids"] for part in parts))) == alone[k]["ids"]


@pytest.mark.parametrize("batch", [1, 4, 8, 24])
def test_evaluation_counts_every_example_once(batch: int) -> None:
    for count, processes in itertools.product((1, 2, 5, 16, 17, 31), (1, 2, 3, 8)):
        evaluate_once(count, batch, processes)


def evaluate_once(count: int, batch: int, processes: int) -> None:
    """Hold what all processes read to each example once, in as many batches on each."""
    seen: Counter[int] = Counter()
    lengths, fillers = set(), 0
    for rank in range(processes):
        source = EvaluationExamples(range(count), batch_of, batch, Shard(rank, processes))
        lengths.add(len(source))
        for number in range(len(source)):
            made = source[number]
            assert 1 <= len(made["ids"]) <= -(-batch // processes)
            if made.get("filler"):
                fillers += 1
            else:
                seen.update(made["ids"])
    assert seen == Counter(range(count))
    assert len(lengths) == 1, "or some process would wait for the others for ever"
    (length,) = lengths
    assert fillers == max(0, length * processes - count) or fillers < processes
    if processes == 1:
        assert fillers == 0
