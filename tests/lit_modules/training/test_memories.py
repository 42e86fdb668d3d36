"""Segment memories of a run: separate parts, and the memory of the last optimizer step saved."""

from typing import Any

import pytest
import torch

import sparse_patterns as sp
from lit_modules.nn.decoder.decoder import Decoder
from lit_modules.training import memories as module
from lit_modules.training.memories import Memories

IDS = {"input_ids": torch.zeros(1, 2, dtype=torch.long)}
CONTINUES = {**IDS, "continues": torch.tensor([True])}
STARTS = {**IDS, "continues": torch.tensor([False])}
NET = Decoder(3, layers=1, heads=1, width=4, pattern=sp.Window.before(2))


def _store(memories: Memories, part: str, value: float) -> None:
    memories.recall(part, STARTS, NET)
    memories.store(part, (torch.full((1, 2, 4), value),), STARTS)


def _recalled(memories: Memories, part: str) -> float:
    hidden = memories.recall(part, CONTINUES, NET)["memory"][0]
    return float(hidden.unique())


def test_the_parts_do_not_share_a_memory() -> None:
    memories = Memories(2)
    for value, part in enumerate(("train", "val", "test"), 1):
        _store(memories, part, value)
    assert [_recalled(memories, part) for part in ("train", "val", "test")] == [1, 2, 3]
    memories.reset("val")
    assert _recalled(memories, "train") == 1
    with pytest.raises(ValueError, match="first batch of a stream needs False"):
        memories.recall("val", CONTINUES, NET)


def test_training_needs_to_know_what_a_row_continues_and_evaluation_does_not() -> None:
    memories = Memories(2)
    with pytest.raises(ValueError, match=r"memory 2 needs batches with.*got \['input_ids'\]"):
        memories.recall("train", IDS, NET)
    assert memories.recall("val", IDS, NET) == {"keep": 2}


def test_each_part_keeps_what_it_was_told_to() -> None:
    memories = Memories(2, 7, keys=True)
    assert memories.recall("train", STARTS, NET) == {"keep": 2}
    # Keys and values only as far as the pattern sees.
    assert memories.recall("test", STARTS, NET) == {"keep_keys": (2,)}
    assert Memories(0, 7).recall("train", IDS, NET) == {}
    assert Memories(3, 0).recall("val", IDS, NET) == {}


def _restored(state: list[dict[str, Any]], rank: int = 0) -> Memories:
    memories = Memories(2)
    memories.load_state_dict(state, rank)
    return memories


def test_between_two_steps_the_memory_of_the_last_step_is_saved() -> None:
    memories = Memories(2)
    _store(memories, "train", 1)
    memories.note(step=4)
    _store(memories, "train", 2)
    memories.note(step=4)  # the second batch of an accumulation
    assert _recalled(_restored(memories.state_dict(step=4)), "train") == 1
    assert _recalled(memories, "train") == 2


def test_after_a_step_the_present_memory_is_saved() -> None:
    memories = Memories(2)
    _store(memories, "train", 1)
    memories.note(step=4)
    _store(memories, "train", 2)
    assert _recalled(_restored(memories.state_dict(step=5)), "train") == 2
    memories.note(step=5)
    _store(memories, "train", 3)
    assert _recalled(_restored(memories.state_dict(step=5)), "train") == 2


def test_the_rows_are_divided_among_another_number_of_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two = []
    for value in (1.0, 2.0):
        memories = Memories(2)
        _store(memories, "train", value)
        two += memories.state_dict(step=0)
    batch = {
        "input_ids": torch.zeros(2, 2, dtype=torch.long),
        "continues": torch.tensor([True, True]),
    }
    alone = _restored(two)
    assert alone.recall("train", batch, NET)["memory"][0][:, 0, 0].tolist() == [1, 2]
    whole = alone.state_dict(step=0)
    monkeypatch.setattr(module, "world_size", lambda: 2)
    assert [_recalled(_restored(whole, rank), "train") for rank in (0, 1)] == [1, 2]


@pytest.mark.parametrize(
    ("state", "held"),
    [
        ([{"layers": [[torch.ones(1, 1, 2, 4)] * 2], "seen": [2]}], "a memory of keys and values"),
        ([], "no memory"),
    ],
)
def test_without_hidden_states_streams_begin_anew(state: list[Any], held: str) -> None:
    with pytest.warns(UserWarning, match=f"the checkpoint holds {held}"):
        memories = _restored(state)
    assert memories.recall("train", CONTINUES, NET) == {"keep": 2}
    memories.store("train", (torch.ones(1, 2, 4),), CONTINUES)
    assert _recalled(memories, "train") == 1


def test_a_loaded_memory_moves_to_the_device() -> None:
    memories = Memories(2)
    _store(memories, "train", 1)
    memories.to(torch.device("meta"))
    assert memories.recall("train", CONTINUES, NET)["memory"][0].device.type == "meta"
