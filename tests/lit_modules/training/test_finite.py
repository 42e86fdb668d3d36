"""A loss that is not finite stops a run, and the message says where and what to try."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lit_modules.training.finite import WatchedModule

GOOD, BAD = torch.tensor(1.0), torch.tensor(torch.nan)


class Module(WatchedModule):
    """One weight, in a run of which only the step and the precision count."""

    def __init__(self, step: int = 3, precision: str = "32-true", scaler: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        plugin = SimpleNamespace(scaler=scaler)
        run = {"global_step": step, "current_epoch": 1, "callbacks": [], "precision": precision}
        self.__dict__["_trainer"] = SimpleNamespace(**run, precision_plugin=plugin)

    @property
    def trainer(self) -> Any:
        """The run."""
        return self._trainer


def test_a_run_goes_on_while_losses_are_finite() -> None:
    module = Module()
    for batch in range(100):
        module.watch(GOOD, batch)


def test_the_message_names_step_batch_and_what_to_try() -> None:
    module = Module()
    module.watch(GOOD, 6)
    with pytest.raises(
        FloatingPointError,
        match=r"training loss is nan at optimizer step 3 \(batch 7 of epoch 1\): try a lower learn",
    ):
        module.watch(BAD, 7)


@pytest.mark.parametrize(("precision", "told"), [("16-mixed", True), ("bf16-mixed", False)])
def test_half_precision_is_named_where_numbers_are_small(precision: str, told: bool) -> None:
    with pytest.raises(FloatingPointError) as caught:
        Module(precision=precision).watch(BAD, 0)
    assert ("beyond 65504" in str(caught.value)) is told


def test_before_the_first_step_no_rate_is_blamed() -> None:
    module = Module(step=0)
    with pytest.raises(FloatingPointError, match="no step was made yet") as caught:
        module.watch(BAD, 0)
    assert "learning rate" not in str(caught.value)
    with torch.no_grad():
        module.layer.bias.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match=r"weight layer\.bias is not finite .* empty_init"):
        module.watch(BAD, 0)


def test_a_scaler_may_skip_steps_for_a_while() -> None:
    module = Module(scaler=object())
    for batch in range(20):
        module.watch(BAD, batch)
    module.watch(GOOD, 20)
    for batch in range(20):
        module.watch(BAD, batch)
    with pytest.raises(FloatingPointError, match="training loss is nan"):
        module.watch(BAD, 20)


def test_a_search_for_a_rate_is_left_alone() -> None:
    module = Module()
    module.trainer.callbacks.append(type("_LRCallback", (), {})())
    module.watch(BAD, 0)
