"""The activations by their names against the formulas."""

import math

import pytest
import torch

from lit_modules.nn.activations import ACTIVATIONS

X = torch.linspace(-4, 4, 33, dtype=torch.float64)

FORMULAS = {
    "gelu": X / 2 * (1 + torch.erf(X / math.sqrt(2))),
    "gelu_new": X / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3))),
    "gelu_pytorch_tanh": X / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3))),
    "relu": torch.where(X > 0, X, 0.0),
    "silu": X / (1 + torch.exp(-X)),
    "swish": X / (1 + torch.exp(-X)),
    "tanh": (torch.exp(2 * X) - 1) / (torch.exp(2 * X) + 1),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_its_formula(name: str) -> None:
    torch.testing.assert_close(ACTIVATIONS[name](X), FORMULAS[name], rtol=0, atol=1e-12)


def test_both_forms_of_gelu_are_kept_distinct() -> None:
    difference = (ACTIVATIONS["gelu"](X) - ACTIVATIONS["gelu_new"](X)).abs().max()
    assert 1e-4 < difference < 1e-2
