"""Seeds that depend on run, process and batch alone."""

import random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from lit_modules.callbacks.randomness import SeedEachBatch

NOTHING = cast(Any, None)


@pytest.fixture(autouse=True)
def _generators_are_restored() -> Any:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _draws(callback: SeedEachBatch, batch: int, rank: int = 0) -> tuple[float, float, float]:
    """Return what each generator draws first in a batch, given the batches started so far."""
    total = SimpleNamespace(total=SimpleNamespace(ready=batch))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=total))
    trainer = cast(Any, SimpleNamespace(fit_loop=loop, global_rank=rank))
    # The index within the epoch must not matter: it starts from 0 in each epoch.
    callback.on_train_batch_start(trainer, NOTHING, None, batch_idx=0)
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_same_batch_draws_the_same_numbers_whatever_was_drawn_before() -> None:
    first = _draws(SeedEachBatch(seed=3), batch=5)
    random.random(), np.random.rand(), torch.rand(7)
    assert _draws(SeedEachBatch(seed=3), batch=5) == first


@pytest.mark.parametrize("generator", [0, 1, 2], ids=["python", "numpy", "torch"])
def test_neighbouring_seeds_processes_and_batches_draw_different_numbers(generator: int) -> None:
    drawn = [
        _draws(SeedEachBatch(seed=seed), batch, rank)[generator]
        for seed in range(3)
        for rank in range(3)
        for batch in range(3)
    ]
    assert len(set(drawn)) == len(drawn)


def test_without_a_seed_it_is_that_of_seed_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    callback = SeedEachBatch()
    callback.setup(NOTHING, NOTHING, "fit")
    assert callback.seed == 7
    assert _draws(callback, batch=1) == _draws(SeedEachBatch(seed=7), batch=1)
    monkeypatch.delenv("PL_GLOBAL_SEED")
    callback = SeedEachBatch()
    callback.setup(NOTHING, NOTHING, "fit")
    assert callback.seed == 0


def test_a_given_seed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    callback = SeedEachBatch(seed=0)
    callback.setup(NOTHING, NOTHING, "fit")
    assert callback.seed == 0


def test_a_resumed_run_uses_the_seed_of_the_first() -> None:
    resumed = SeedEachBatch(seed=9)
    resumed.load_state_dict(SeedEachBatch(seed=4).state_dict())
    assert _draws(resumed, batch=2) == _draws(SeedEachBatch(seed=4), batch=2)
