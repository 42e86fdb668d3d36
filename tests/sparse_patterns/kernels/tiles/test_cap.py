"""Capped scores against the hyperbolic tangent in float64, over all that a bound allows."""

from __future__ import annotations

import pytest
import torch

from sparse_patterns.kernels.tiles.cap import EXPANSIONS, Cap
from sparse_patterns.kernels.tiles.head import Workspace

CPU = torch.device("cpu")


@pytest.mark.parametrize("softcap", [0.5, 50.0])
@pytest.mark.parametrize("number", range(len(EXPANSIONS) + 1))
def test_caps_are_exact_up_to_the_bound(softcap: float, number: int) -> None:
    last = number == len(EXPANSIONS)
    bound = softcap * (40 if last else EXPANSIONS[number].limit)
    cap = Cap.of(softcap, bound, torch.float32)
    assert cap.expansion is (None if last else EXPANSIONS[number])
    scores = torch.linspace(-bound, bound, 20_001, dtype=torch.float64)
    want = softcap * torch.tanh(scores / softcap)
    found = (scores * cap.unit).float()
    cap.apply(found, Workspace(torch.float32, CPU))
    torch.testing.assert_close(found.double(), want, rtol=4e-7, atol=0)


def test_float64_takes_the_function_itself() -> None:
    cap = Cap.of(50.0, 1.0, torch.float64)
    assert cap.expansion is None
    scores = torch.linspace(-1, 1, 101, dtype=torch.float64)
    found = scores * cap.unit
    cap.apply(found, Workspace(torch.float64, CPU))
    torch.testing.assert_close(found, 50 * torch.tanh(scores / 50), rtol=1e-14, atol=0)
