"""What decays, what does not, and where the learning rate comes from."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lit_modules.training.optimization import configure_adamw, parameter_groups


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.tied = self.first
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_matrices_decay_and_vectors_do_not() -> None:
    module = Module()
    decayed, rest = parameter_groups(module.parameters(), 0.1)
    assert decayed["weight_decay"] == 0.1
    assert rest["weight_decay"] == 0.0
    assert [id(p) for p in decayed["params"]] == [id(module.first.weight)]
    assert {id(p) for p in rest["params"]} == {
        id(p) for p in (module.first.bias, module.norm.weight, module.norm.bias)
    }


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one parameter"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False).parameters(), 0.1)


def test_the_rate_is_that_of_the_stages_by_step() -> None:
    module = Module()
    stages = SimpleNamespace(learning_rate_factor=lambda step: 1 / (step + 1))
    module._trainer = SimpleNamespace(callbacks=[object(), stages])  # type: ignore[assignment]
    made = configure_adamw(module, learning_rate=0.5, betas=(0.8, 0.9))
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    assert isinstance(optimizer, torch.optim.AdamW)
    rates = []
    for _ in range(3):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.5, 0.25, 0.5 / 3])


def test_without_a_trainer_the_rate_is_constant() -> None:
    made = configure_adamw(Module(), learning_rate=0.5)
    assert [group["lr"] for group in made["optimizer"].param_groups] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.0}, r"learning_rate must be > 0 and finite, got 0\.0"),
        (
            {"learning_rate": 0.1, "weight_decay": -1.0},
            r"weight_decay must be >= 0 and finite, got -1\.0",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure_adamw(Module(), **fields)
