"""The lm suite trains the demo's model against the same model with dense attention."""

import pytest
import torch
from torch import Tensor

from benchmarks.baselines import Unavailable
from benchmarks.models.lm import CASES, MEMORY_GOALS, SPEED_GOALS
from benchmarks.suites import Case, Options
from benchmarks.timing import Effort
from benchmarks.training import DENSE_KERNEL_LONGEST, STEPS, TrainingStep


def gradients(step: TrainingStep) -> dict[str, Tensor]:
    """What one step leaves behind, by the name of the parameter."""
    step()
    return {name: p.grad for name, p in step.decoder.named_parameters() if p.grad is not None}


def test_windows_are_those_of_the_last_stage() -> None:
    decoder = STEPS["ours"](32).decoder
    assert decoder.window_scale == 4
    assert decoder.reaches() == (64, 102, 322, 1024)


def test_dense_attention_is_that_of_the_causal_pattern() -> None:
    torchs, ours = STEPS["torch-dense"](100), STEPS["dense-kernel"](100)
    expected = gradients(ours)
    got = gradients(torchs)
    assert got.keys() == expected.keys() == dict(ours.decoder.named_parameters()).keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=1e-5, rtol=1e-3)


def test_both_sides_start_from_the_same_weights_and_sequence() -> None:
    ours, other = STEPS["ours"](32), STEPS["torch-dense"](32)
    assert torch.equal(ours.input_ids, other.input_ids)
    theirs = other.decoder.state_dict()
    assert all(torch.equal(x, theirs[name]) for name, x in ours.decoder.state_dict().items())


def test_a_call_trains_a_step() -> None:
    step = STEPS["ours"](64)
    losses = [step().item() for _ in range(4)]
    assert losses == sorted(losses, reverse=True)


def test_the_dense_kernel_refuses_what_would_not_fit() -> None:
    with pytest.raises(Unavailable, match="measured up to 4,096"):
        STEPS["dense-kernel"](DENSE_KERNEL_LONGEST + 1)


MARKS = {"lm-memory": pytest.mark.long}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.name, marks=MARKS.get(c.name, pytest.mark.slow)) for c in CASES],
)
def test_every_case_runs_on_a_short_sequence(case: Case) -> None:
    rows = list(case.measure(Options(lengths=(64, 128), effort=Effort(rounds=1), threads=1)))
    assert len(rows) == 2
    for row in rows:
        assert row.case == case.name
        assert row.measured is not None, row.note
        assert row.measured > 0
        assert row.goal is None  # set for another length
        assert row.direction == "training step"


def test_goals_apply_at_the_lengths_measured_without_options() -> None:
    lengths = Options().lengths
    assert all(tuple(goals) == lengths for goals in SPEED_GOALS.values())
    assert list(MEMORY_GOALS) == [lengths]
