"""Batches are pure functions of their number, cut among processes, and cover what they must."""

import array
import itertools
from pathlib import Path

import pytest
import torch

from datamodules.language_model.batch import IGNORE, LanguageModelBatch
from datamodules.language_model.sampling import (
    EvaluationStreams,
    EvaluationWindows,
    RandomWindows,
    Split,
    Streams,
)
from datamodules.loading.shards import Shard, Source, generator
from datamodules.tokenizers.token_file import TokenFile


@pytest.fixture
def make_split(tmp_path: Path):
    """Makes splits whose token at position i is i, and stands for i % 3 + 1 units."""

    def make(length: int, with_units: bool = False, starts: tuple[int, ...] = (0,)) -> Split:
        (tmp_path / "t").write_bytes(array.array("H", range(length)).tobytes())
        (tmp_path / "u").write_bytes(array.array("I", (i % 3 + 1 for i in range(length))).tobytes())
        return Split(
            TokenFile(tmp_path / "t", 2),
            TokenFile(tmp_path / "u", 4) if with_units else None,
            torch.tensor(starts),
        )

    return make


def join(parts: list[LanguageModelBatch]) -> dict[str, torch.Tensor]:
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def assert_equal(a: LanguageModelBatch, b: LanguageModelBatch) -> None:
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)


def scored(source: Source) -> list[int]:
    """All labels of a pass that are scored; labels are right where they follow their input."""
    found = []
    for number in range(len(source)):
        batch = source[number]
        counts = batch["labels"] != IGNORE
        assert (batch["labels"][counts] == batch["input_ids"][counts] + 1).all()
        found += batch["labels"][counts].tolist()
    return found


def test_generator_is_a_function_of_its_key() -> None:
    first = [torch.randint(2**40, (3,), generator=generator("a", 1)).tolist() for _ in range(2)]
    assert first[0] == first[1]
    others = [("a", 2), ("b", 1), ("a", 1, 0)]
    for key in others:
        assert torch.randint(2**40, (3,), generator=generator(*key)).tolist() != first[0]


def test_random_windows_are_consecutive_and_reach_both_ends(make_split) -> None:
    source = RandomWindows(make_split(12), length=4, rows=200, seed=0)
    batch = source[0]
    assert (batch["labels"] == batch["input_ids"] + 1).all()
    assert (batch["input_ids"].diff(dim=1) == 1).all()
    assert set(batch["input_ids"][:, 0].tolist()) == set(range(8))
    assert batch["labels"].max() == 11
    assert len(RandomWindows(make_split(101), length=4, rows=5, seed=0)) == 5


@pytest.mark.parametrize("kind", [RandomWindows, Streams])
def test_batches_differ_by_number_stage_and_seed_alone(make_split, kind) -> None:
    split = make_split(1000)
    base = kind(split, 8, 4, seed=1, stage=2)
    assert_equal(base[5], kind(split, 8, 4, seed=1, stage=2)[5])
    others = [
        base[6],
        kind(split, 8, 4, seed=1, stage=3)[5],
        kind(split, 8, 4, seed=2, stage=2)[5],
    ]
    assert all((other["input_ids"] != base[5]["input_ids"]).any() for other in others)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("kind", [RandomWindows, Streams])
def test_processes_see_the_rows_of_the_whole_batch(make_split, kind, processes: int) -> None:
    split = make_split(500, with_units=True)
    whole = kind(split, 16, 8, seed=3, stage=1)
    parts = [
        kind(split, 16, 8, seed=3, stage=1, shard=Shard(r, processes)) for r in range(processes)
    ]
    for number in (0, 1, 7, 30):
        assert_equal(join([part[number] for part in parts]), whole[number])
    assert {len(part) for part in parts} == {len(whole)}


def test_streams_are_consecutive_from_batch_to_batch(make_split) -> None:
    source = Streams(make_split(101), length=6, rows=4, seed=0)
    assert len(source) == 4
    batches = [source[k] for k in range(8)]
    assert [bool(b["continues"].all()) for b in batches] == [False, True, True, True] * 2
    assert [bool(b["continues"].any()) for b in batches] == [False, True, True, True] * 2
    for before, after in itertools.pairwise(batches[:4]):
        assert (after["input_ids"][:, 0] == before["labels"][:, -1]).all()
    rows = join(batches[:4])["input_ids"].view(4, 4, 6).transpose(0, 1).reshape(4, 24)
    assert ((rows.diff(dim=1) == 1) | (rows.diff(dim=1) == -100)).all(), "only the end wraps"
    assert rows.unique().numel() == 96, "rows do not overlap"
    assert batches[4]["input_ids"][0, 0] != batches[0]["input_ids"][0, 0], "passes begin elsewhere"


STARTS = (0, 5, 6, 40, 77)


@pytest.mark.parametrize("kind", [Streams, EvaluationStreams])
def test_streams_say_where_a_document_begins(make_split, kind) -> None:
    split = make_split(101, starts=STARTS)
    source = kind(split, 6, 4, **({"seed": 0} if kind is Streams else {}))
    seen = []
    for number in range(len(source)):
        batch = source[number]
        real = batch["labels"] != IGNORE
        begins = torch.isin(batch["input_ids"], torch.tensor(STARTS)) & real
        assert torch.equal(batch["restarts"], begins)
        assert torch.equal(batch["continues"], ~begins[:, 0] & (number > 0))
        seen += batch["input_ids"][begins].tolist()
    assert sorted(seen) == sorted(set(seen))
    assert set(seen) <= set(STARTS)
    assert len(seen) >= 4, "the rows of a pass leave a few tokens out"


def test_the_end_of_the_text_and_its_beginning_are_two_documents(make_split) -> None:
    source = Streams(make_split(20), length=19, rows=1, seed=0)
    batch = source[0]
    assert batch["restarts"].int().argmax() == (batch["input_ids"] == 0).int().argmax() > 0


@pytest.mark.parametrize(
    ("length", "step"), [(1, 1), (7, 1), (7, 3), (7, 7), (10, 3), (10, 7), (10, 10), (100, 3)]
)
@pytest.mark.parametrize("tokens", [2, 7, 8, 9, 50, 57, 101])
def test_evaluation_windows_score_each_token_once(make_split, length, step, tokens) -> None:
    source = EvaluationWindows(make_split(tokens), length, step, rows=3)
    assert sorted(scored(source)) == list(range(1, tokens))


def test_evaluation_windows_score_the_last_step_with_full_context(make_split) -> None:
    source = EvaluationWindows(make_split(41), length=10, step=4, rows=100)
    counts = (source[0]["labels"] != IGNORE).sum(1).tolist()
    assert counts == [10, 4, 4, 4, 4, 4, 4, 4, 2]
    inner = source[0]["labels"][3]
    assert (inner[:6] == IGNORE).all()
    assert source[0]["input_ids"][3].tolist() == list(range(12, 22))
    last = source[0]
    assert last["labels"][-1].tolist() == [IGNORE] * 6 + [39, 40] + [IGNORE] * 2
    assert last["input_ids"][-1].tolist() == [*range(32, 40), 0, 0]


@pytest.mark.parametrize("tokens", [2, 5, 50, 57])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_evaluation_streams_score_each_token_once_in_order(make_split, tokens, rows) -> None:
    source = EvaluationStreams(make_split(tokens), length=4, rows=rows)
    assert sorted(scored(source)) == list(range(1, tokens))
    batches = [source[k] for k in range(len(source))]
    assert all(len(b["input_ids"]) == rows for b in batches)
    assert [bool(b["continues"][0]) for b in batches] == [False] + [True] * (len(batches) - 1)
    for before, after in itertools.pairwise(batches):
        going_on = after["labels"][:, 0] != IGNORE
        assert (after["input_ids"][:, 0] == before["labels"][:, -1])[going_on].all()


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("tokens", [20, 31, 100])
@pytest.mark.parametrize("rows", [6, 5, 1])
def test_processes_share_evaluation_without_loss(make_split, processes, tokens, rows) -> None:
    split = make_split(tokens, with_units=True)
    whole = EvaluationWindows(split, 6, 2, rows=rows)
    parts = [EvaluationWindows(split, 6, 2, rows, Shard(r, processes)) for r in range(processes)]
    assert {len(part) for part in parts} == {len(whole)}, "unequal numbers would block the others"
    assert all(len(part[k]["labels"]) > 0 for part in parts for k in range(len(part)))
    assert sorted(itertools.chain(*map(scored, parts))) == list(range(1, tokens))
    units = sum(int(part[k]["units_scored"].sum()) for part in parts for k in range(len(part)))
    assert units == sum(i % 3 + 1 for i in range(1, tokens))
    streams = [EvaluationStreams(split, 6, 6, Shard(r, processes)) for r in range(processes)]
    for k in range(len(streams[0])):
        assert_equal(join([s[k] for s in streams]), EvaluationStreams(split, 6, 6)[k])


def test_units_of_all_windows_add_up(make_split) -> None:
    split = make_split(77, with_units=True)
    expected = sum(i % 3 + 1 for i in range(1, 77))
    for source in (EvaluationWindows(split, 10, 3, 4), EvaluationStreams(split, 10, 4)):
        assert sum(int(source[k]["units_scored"].sum()) for k in range(len(source))) == expected
