"""Lightning's callbacks that look at a module before training, and its learning-rate finder."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    EMAWeightAveraging,
    StochasticWeightAveraging,
)
from lightning.pytorch.tuner import Tuner
from torch import Tensor

from tests.lit_modules.modules.kinds import ENCODERS, KINDS, SOME, batches, data, make, trainer
from tests.lit_modules.task_batches import TaskData

pytestmark = [
    # It says that it shards nothing, of every module that has the hook.
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback"),
    # It puts a scheduler of its own in place of one by steps.
    pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


class Weights(Callback):
    """Notes copies of all parameters after each step and at the start of each epoch."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.epochs: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.steps.append(copies(pl_module))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.epochs.append(copies(pl_module))


def copies(module: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


class FreezeFirst(BaseFinetuning):
    """Freezes the encoder, or the layers of a decoder, until epoch 1."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=1e-3)


@pytest.mark.parametrize(
    ("with_callback", "kind"),
    [*((BackboneFinetuning, kind) for kind in KINDS), *((FreezeFirst, kind) for kind in SOME)],
)
def test_a_frozen_backbone_trains_later(kind: str, with_callback: Any, tmp_path: Path) -> None:
    model = make(kind)
    first = copies(model)
    own = {f"{name}." for name, part in model.named_modules() if part is model.backbone}
    (prefix,) = own
    given = {"unfreeze_backbone_at_epoch": 1} if with_callback is BackboneFinetuning else {}
    # A rate that falls would be zero at the end.
    model.hparams["decay"] = "none"
    noted = Weights()
    run = trainer(with_callback(**given), noted, max_epochs=2)
    run.fit(model, datamodule=data(kind))
    inside = [n for n in first if n.startswith(prefix) and not is_masked_global(n)]
    outside = [n for n in first if not n.startswith(prefix)]
    assert inside
    assert outside
    in_first, last = noted.steps[1], noted.steps[-1]
    assert all(torch.equal(in_first[name], first[name]) for name in inside)
    assert any(not torch.equal(in_first[name], first[name]) for name in outside)
    changed = [name for name in inside if not torch.equal(last[name], first[name])]
    assert len(changed) > 0.6 * len(inside)
    assert {id(p) for group in run.optimizers[0].param_groups for p in group["params"]} >= {
        id(model.get_parameter(name)) for name in changed
    }


def is_masked_global(name: str) -> bool:
    return "_global" in name or "pooler" in name


@pytest.mark.parametrize("kind", SOME)
def test_an_exponential_average_is_that_of_the_steps(kind: str) -> None:
    model, noted = make(kind), Weights()
    callback = EMAWeightAveraging(decay=0.5)
    first = copies(model)
    # Noted before the callback puts in its average.
    run = trainer(noted, callback, max_epochs=2, limit_val_batches=0)
    run.fit(model, train_dataloaders=data(kind).train_dataloader())
    average = None
    for step in noted.steps:
        average = step if average is None else {n: (average[n] + step[n]) / 2 for n in step}
    assert average is not None
    assert any(not torch.equal(average[name], first[name]) for name in first)
    for name, parameter in model.named_parameters():
        if not (kind == "masked" and "_global" in name):
            torch.testing.assert_close(parameter.detach(), average[name], msg=name)


@pytest.mark.parametrize(
    "kind", [x if x in SOME else pytest.param(x, marks=pytest.mark.long) for x in KINDS]
)
def test_a_stochastic_average_is_that_of_the_epochs(kind: str) -> None:
    model, noted = make(kind), Weights()
    callback = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=2, annealing_epochs=1)
    run = trainer(callback, noted, max_epochs=4, limit_val_batches=0)
    run.fit(model, train_dataloaders=data(kind).train_dataloader())
    averaged = copies(callback._average_model)
    assert list(averaged) == [name for name, _ in model.named_parameters()]
    assert sum(p.numel() for p in averaged.values()) > 1000
    # Averaged are the weights at the start of each epoch from the second on.
    late = noted.epochs[1:]
    mean = {name: torch.stack([one[name] for one in late]).mean(0) for name in averaged}
    assert any(not torch.equal(late[0][name], late[-1][name]) for name in averaged)
    for name, parameter in model.named_parameters():
        if not (kind == "masked" and "_global" in name):
            torch.testing.assert_close(parameter.detach(), mean[name], msg=name)


@pytest.mark.parametrize(
    "kind",
    ["language", *(pytest.param(x, marks=pytest.mark.long) for x in ("masked", "classification"))],
)
def test_the_learning_rate_finder_finds_a_rate(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    before = copies(model)
    run = trainer(max_epochs=1, default_root_dir=tmp_path)
    # Rates at which the loss is not finite any more: the search goes on, and ends.
    found = Tuner(run).lr_find(
        model, datamodule=data(kind, 20), min_lr=1e-5, max_lr=1e12, num_training=40,
        early_stop_threshold=None,
    )  # fmt: skip
    assert found is not None
    assert len(found.results["loss"]) > 10
    assert not all(map(math.isfinite, found.results["loss"]))
    suggested = found.suggestion()
    assert suggested is not None
    assert 1e-5 <= suggested < 1e12
    assert model.hparams["learning_rate"] == suggested
    assert all(torch.equal(p, before[name]) for name, p in copies(model).items())
    # Afterwards a loss that is not finite stops a run again.
    model.hparams["learning_rate"] = 1e30
    with pytest.raises(FloatingPointError, match="the training loss is"):
        trainer(max_epochs=1).fit(model, datamodule=data(kind, 20))


def test_a_run_that_was_unfrozen_resumes(tmp_path: Path) -> None:
    """The groups that the callback adds are no reason to stop."""
    kind = ENCODERS[1]
    run = trainer(BackboneFinetuning(unfreeze_backbone_at_epoch=1), max_epochs=2)
    model = make(kind)
    run.fit(model, datamodule=data(kind))
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = trainer(BackboneFinetuning(unfreeze_backbone_at_epoch=1), max_epochs=3)
    again.fit(make(kind), datamodule=TaskData(batches(kind)), ckpt_path=tmp_path / "a.ckpt")
    assert again.global_step == 6
