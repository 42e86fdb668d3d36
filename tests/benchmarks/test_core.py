"""The core suite compares like with like, and its arithmetic is right."""

import pytest
import torch

import sparse_patterns as sp
from benchmarks import memory
from benchmarks.baselines import BASELINES, check_equal
from benchmarks.contenders import (
    DIRECTIONS,
    HEAD_DIM,
    HEADS,
    WINDOW,
    Contender,
    ours,
    useful_flop,
)
from benchmarks.core import CASES, GOAL_LENGTH, visible_pairs
from benchmarks.suites import Case, Options
from benchmarks.timing import Effort


@pytest.mark.parametrize("length", [512, 700])
@pytest.mark.parametrize("name", ["huggingface", "dense-masked"])
def test_a_baseline_computes_what_our_side_does(name: str, length: int) -> None:
    if name == "huggingface":
        pytest.importorskip("transformers")
    baseline = BASELINES[name](length)
    check_equal(ours(WINDOW, length).forward(), baseline.forward())
    for gradient, given in zip(baseline.forward_backward(), baseline.inputs, strict=True):
        assert gradient.shape == given.shape
        assert gradient.abs().sum() > 0


def test_different_outputs_are_told_apart() -> None:
    ones = torch.ones(1, 2, 3, 4)
    check_equal(ones, torch.ones(1, 3, 8))
    with pytest.raises(ValueError, match=r"the outputs differ by 0\.5, allowed is 0\.0001"):
        check_equal(ones, ones + 0.5)
    with pytest.raises(ValueError, match="differ by nan"):
        check_equal(ones, ones * float("nan"))


def test_a_contender_keeps_no_gradient_between_calls() -> None:
    contender = Contender(lambda x: (x * x).sum(), (torch.tensor([3.0]),))
    contender.run("forward+backward")
    first, second = contender.forward_backward(), contender.forward_backward()
    assert torch.equal(first[0], second[0])
    assert not contender.forward().requires_grad


def test_useful_work_is_two_products_forward_and_five_backward() -> None:
    assert useful_flop(4096, "forward") == 4 * 12 * 4096 * 513 * 64
    assert useful_flop(4096, "forward+backward") == 3.5 * useful_flop(4096, "forward")


def test_visible_pairs_are_those_of_the_mask() -> None:
    pattern = sp.Window(3, 2) | sp.Global((0,))
    mask = sp.dense_mask(pattern, 40, heads=HEADS)
    assert visible_pairs(pattern, 40) == pytest.approx(mask.expand(HEADS, 40, 40).sum().item())


@pytest.mark.long
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name not in ("flex", "memory")], ids=lambda case: case.name
)
def test_every_case_runs_on_a_short_sequence(case: Case) -> None:
    if case.name == "huggingface":
        pytest.importorskip("transformers")
    rows = list(case.measure(Options(lengths=(64, 128), effort=Effort(rounds=1), threads=1)))
    assert rows
    for row in rows:
        assert row.measured is not None, row.note
        assert row.measured > 0
        assert row.goal is None  # set for another length
        assert row.length in (64, 128, None)


def test_goals_apply_at_the_length_they_are_set_for() -> None:
    assert GOAL_LENGTH in Options().lengths
    assert 4 * GOAL_LENGTH in Options().lengths


@pytest.mark.long
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_peak_memory_is_measured_above_the_inputs(direction: str) -> None:
    length = 2048
    output = HEADS * length * HEAD_DIM * 4
    peak = memory.peak_bytes("benchmarks.baselines", "dense", length, direction, threads=1)
    results = 1 if direction == "forward" else 4  # the output, and then three gradients
    assert results * output < peak < 40 * output


@pytest.mark.slow
def test_a_failing_child_is_reported() -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'nothing'"):
        memory.peak_bytes("benchmarks.baselines", "nothing", 64, "forward", threads=1)
