"""What kernels of a GPU make of a plan and of the masks of a batch: in little time, and once."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from benchmarks.gpu_check import planning
from sparse_patterns.kernels import examples
from sparse_patterns.kernels.examples import Examples
from sparse_patterns.kernels.fused import select

STATIC = ("window", "dilation", "globals")
MASKED = ("batch globals", "documents")
LENGTH, SHORT = 131_072, 5000
SLOWER = 4
"""How much slower than the machine of the goals, and how busy, one that runs this may be."""

kernels = pytest.mark.parametrize("kernel", planning.MADE)


@kernels
@pytest.mark.parametrize("name", STATIC)
@pytest.mark.long
def test_a_long_sequence_is_planned_in_little_time(kernel: str, name: str) -> None:
    """Counted in seconds of the processor, since other programs run beside."""
    first, later = [], []
    for _ in range(3):
        call = planning.call_of(planning.PATTERNS[name], LENGTH, "cpu", torch.bfloat16)
        planning.forget()
        for found, one in ((first, call), (later, replace(call))):
            start = time.process_time()
            planning.MADE[kernel](one, one.request.plan)
            found.append(time.process_time() - start)
    assert min(first) <= SLOWER * planning.FIRST_GOAL
    assert min(later) <= SLOWER * planning.LATER_GOAL


@kernels
@pytest.mark.parametrize("name", MASKED)
def test_tables_of_a_batch_are_made_once_for_its_layers_and_passes(
    kernel: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []

    def counted(owner: object, attribute: str) -> None:
        plain = getattr(owner, attribute)

        def instead(*given: object) -> object:
            made.append(attribute)
            return plain(*given)

        monkeypatch.setattr(owner, attribute, instead)

    counted(examples, "blocks")
    counted(select, "_choose")
    call = planning.call_of(planning.PATTERNS[name], SHORT, "cpu", torch.bfloat16)
    planning.MADE[kernel](call, call.request.plan)
    assert made
    made.clear()
    masks = (call.key_mask, call.global_mask, call.segment_ids)
    for _ in range(4):
        # Another layer, or the backward pass, with masks of its own that say the same.
        again = replace(call)
        assert isinstance(again.examples, Examples)
        planning.MADE[kernel](again, again.request.plan)
        copies = [None if mask is None else mask.clone() for mask in masks]
        again = replace(call, key_mask=copies[0], global_mask=copies[1], segment_ids=copies[2])
        planning.MADE[kernel](again, again.request.plan)
    assert made == []
    # Other masks make others.
    other = [None if mask is None else mask.flip(1) for mask in masks]
    call = replace(call, key_mask=other[0], global_mask=other[1], segment_ids=other[2])
    planning.MADE[kernel](call, call.request.plan)
    assert made
