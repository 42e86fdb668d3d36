"""The encoder suite compares the same numbers, and trains both sides alike."""

import pytest
import torch

from benchmarks import longformers
from benchmarks.baselines import Unavailable
from benchmarks.longformers import LONGEST, SIDES, TRAINING, WINDOW, Pass
from benchmarks.models.encoder import CASES, GOAL_LENGTH
from benchmarks.suites import Options
from benchmarks.timing import Effort

SMALL = dict(
    num_hidden_layers=2,
    num_attention_heads=2,
    hidden_size=16,
    intermediate_size=24,
    attention_window=8,
)


def sides(length: int) -> tuple[Pass, Pass]:
    return longformers.ours(length, **SMALL), longformers.huggingface(length, **SMALL)


def test_both_sides_give_the_same_numbers_and_take_the_same_step() -> None:
    ours, other = sides(50)
    before = other.forward()
    torch.testing.assert_close(ours.forward(), before, rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.training_step(), other.training_step(), rtol=0, atol=1e-6)
    theirs = dict(other.model.named_parameters())
    for name, parameter in ours.model.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], rtol=0, atol=1e-7, msg=name)


def test_the_first_token_is_global() -> None:
    ours, _ = sides(50)
    ids, marks = ours.inputs
    assert marks.sum() == 1
    local = ours.encode(ids, torch.zeros_like(marks))
    assert not torch.allclose(local[:, 40:], ours.forward()[:, 40:])


def test_a_training_step_changes_the_weights() -> None:
    ours, _ = sides(20)
    state = {name: tensor.clone() for name, tensor in ours.model.state_dict().items()}
    ours.run(TRAINING)()
    after = ours.model.state_dict()
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.0.output.dense.weight"):
        assert not torch.equal(state[name], after[name])


def test_the_sizes_are_those_of_the_goals() -> None:
    with torch.device("meta"):
        config = SIDES["ours"](GOAL_LENGTH, num_hidden_layers=1).model.config
    assert (config.width, config.heads, config.max_length) == (768, 12, GOAL_LENGTH)
    assert (WINDOW, GOAL_LENGTH, GOAL_LENGTH in Options().lengths) == (512, 4096, True)


def test_lengths_that_would_not_fit_are_left_out() -> None:
    with pytest.raises(Unavailable, match="measured up to 4,096"):
        longformers.huggingface(LONGEST + 1)
    rows = list(CASES[0].measure(Options(lengths=(LONGEST + 1,))))
    assert [row.figure for row in rows] == ["not available"]
    assert not list(CASES[2].measure(Options(lengths=(LONGEST + 1,))))


def test_a_case_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {name: getattr(longformers, name) for name in SIDES}
    for name, make in whole.items():
        monkeypatch.setattr(longformers, name, lambda length, make=make: make(length, **SMALL))
    for case in CASES[:2]:
        (row,) = case.measure(Options(lengths=(40,), effort=Effort(rounds=1), threads=1))
        assert row.measured > 0
        assert row.goal is None
