"""Loops of Fabric and of plain PyTorch, written by hand, and every order of the trainer's own."""

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric

from tests.lit_modules.modules.kinds import KINDS, SOME, batches, data, make, trainer

# Each of the four follows each, itself included.
ORDER = (
    "validate fit fit test test validate validate predict predict fit predict test fit validate "
    "test predict validate"
).split()


def test_the_order_has_every_pair() -> None:
    assert len({*pairwise(ORDER)}) == 16


# One of each base class every day, the others with what is `long`.
DAILY = [x if x in SOME else pytest.param(x, marks=pytest.mark.long) for x in KINDS]


@pytest.mark.parametrize("kind", DAILY)
def test_every_order_of_the_loops_on_one_module(kind: str) -> None:
    model = make(kind, learning_rate=1e-30)
    seen: dict[str, set[float]] = {"validate": set(), "test": set()}
    for loop in ORDER:
        run = trainer(max_epochs=1, limit_train_batches=2)
        if loop == "fit":
            run.fit(model, datamodule=data(kind))
            seen["validate"].add(float(run.callback_metrics["val/loss"]))
        elif loop == "predict":
            assert len(run.predict(model, datamodule=data(kind)) or ()) == 2
        else:
            (figures,) = getattr(run, loop)(model, datamodule=data(kind), verbose=False)
            seen[loop].add(figures["val/loss" if loop == "validate" else "test/loss"])
    # Nothing is trained at such a rate, so each figure is always the same: no loop leaves
    # anything to another.
    assert len(seen["validate"] | seen["test"]) == 1
    assert all(map(math.isfinite, seen["test"]))


@pytest.mark.parametrize("kind", SOME)
def test_one_trainer_for_several_loops(kind: str) -> None:
    model, run = make(kind), trainer(max_epochs=1)
    run.validate(model, datamodule=data(kind), verbose=False)
    run.fit(model, datamodule=data(kind))
    run.test(model, datamodule=data(kind), verbose=False)
    run.fit_loop.max_epochs = 2
    run.fit(model, datamodule=data(kind))
    assert run.global_step == 4


pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


def same(model: Any, other: Any) -> None:
    for name, value in model.state_dict().items():
        if "_global" in name:
            # At the end of a run of masked words, these are copied from the others.
            continue
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)


def settings(kind: str) -> dict[str, Any]:
    return {} if kind in ("language", "masked") else {"decay": "none", "warmup": 0.0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_of_plain_pytorch(kind: str) -> None:
    model = make(kind, **settings(kind))
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step, batch in enumerate(batches(kind)):
        loss = model.training_step(batch, step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert all(map(math.isfinite, losses))
    changed = [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])]
    assert len(changed) > 0.6 * len(before)
    model.eval()
    with torch.inference_mode():
        for step, batch in enumerate(batches(kind)):
            model.validation_step(batch, step)
            model.predict_step(batch, step)
    model.train()
    for batch in batches(kind):
        model.validation_step(batch, 0)


@pytest.mark.parametrize("kind", DAILY)
def test_a_loop_of_fabric_makes_what_a_trainer_makes(kind: str) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    module = make(kind, **settings(kind))
    plain = make(kind, **settings(kind))
    trainer(max_epochs=1).fit(plain, train_dataloaders=data(kind).train_dataloader())
    made = module.configure_optimizers()
    model, optimizer = fabric.setup(module, made["optimizer"])
    model.mark_forward_method("training_step")
    model.mark_forward_method("validation_step")
    for step, batch in enumerate(fabric.setup_dataloaders(data(kind).train_dataloader())):
        optimizer.zero_grad()
        loss = model.training_step(batch, step)
        fabric.backward(loss)
        optimizer.step()
    same(module, plain)
    model.eval()
    with torch.no_grad():
        for step, batch in enumerate(fabric.setup_dataloaders(data(kind).val_dataloader())):
            model.validation_step(batch, step)
    logged: dict[str, Any] = {}
    fabric.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    fabric.log_dict = lambda metrics, **_: logged.update(metrics)  # type: ignore[method-assign]
    module.on_validation_epoch_end()
    (figures,) = trainer().validate(plain, datamodule=data(kind), verbose=False)
    assert {name: float(value) for name, value in logged.items()} == pytest.approx(figures)
