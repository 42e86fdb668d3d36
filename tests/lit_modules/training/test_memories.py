"""Segment memories of a run: separate parts, and the memory of the last optimizer step saved."""

from typing import Any

import pytest
import torch

from lit_modules.training.memories import Memories

CONTINUES = {"continues": torch.tensor([True])}
STARTS = {"continues": torch.tensor([False])}


def _layers(value: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.full((1, 1, 2, 4), value), torch.full((1, 1, 2, 4), -value))]


def _store(memories: Memories, part: str, value: float) -> None:
    memories.recall(part, STARTS)
    memories.store(part, _layers(value), length=2)


def _recalled(memories: Memories, part: str) -> float:
    keys, values = memories.recall(part, CONTINUES)["memory"][0]
    assert torch.equal(keys, -values)
    return float(keys.unique())


def test_the_parts_do_not_share_a_memory() -> None:
    memories = Memories()
    for value, part in enumerate(("train", "val", "test"), 1):
        _store(memories, part, value)
    assert [_recalled(memories, part) for part in ("train", "val", "test")] == [1, 2, 3]
    memories.reset("val")
    assert _recalled(memories, "train") == 1
    with pytest.raises(ValueError, match="first batch of a stream needs False"):
        memories.recall("val", CONTINUES)


def test_training_needs_to_know_what_a_row_continues_and_evaluation_does_not() -> None:
    memories = Memories()
    with pytest.raises(ValueError, match=r"needs batches with `continues`.*got \['input_ids'\]"):
        memories.recall("train", {"input_ids": torch.zeros(1)})
    assert memories.recall("val", {"input_ids": torch.zeros(1)}) == {}


def _restored(state: list[dict[str, Any]]) -> Memories:
    memories = Memories()
    memories.load_state_dict(state, rank=0)
    return memories


def test_between_two_steps_the_memory_of_the_last_step_is_saved() -> None:
    memories = Memories()
    _store(memories, "train", 1)
    memories.note(step=4)
    _store(memories, "train", 2)
    memories.note(step=4)  # the second batch of an accumulation
    assert _recalled(_restored(memories.state_dict(step=4)), "train") == 1
    assert _recalled(memories, "train") == 2


def test_after_a_step_the_present_memory_is_saved() -> None:
    memories = Memories()
    _store(memories, "train", 1)
    memories.note(step=4)
    _store(memories, "train", 2)
    assert _recalled(_restored(memories.state_dict(step=5)), "train") == 2
    memories.note(step=5)
    _store(memories, "train", 3)
    assert _recalled(_restored(memories.state_dict(step=5)), "train") == 2


def test_a_memory_of_another_number_of_processes_is_ignored() -> None:
    memories = Memories()
    _store(memories, "train", 1)
    restored = _restored(memories.state_dict(step=0) * 2)
    with pytest.raises(ValueError, match="first batch of a stream needs False"):
        restored.recall("train", CONTINUES)


def test_a_loaded_memory_moves_to_the_device() -> None:
    memories = Memories()
    _store(memories, "train", 1)
    memories.to(torch.device("meta"))
    assert memories.recall("train", CONTINUES)["memory"][0][0].device.type == "meta"
