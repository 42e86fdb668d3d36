"""The contract of kernels with a cap, sinks and a bias by distance, alone and together."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.spec.algebra import has_global_rows
from sparse_patterns.spec.base import uses
from tests.contracts.kernels.cases import HARD, make_case
from tests.contracts.kernels.emulated.flex import EmulatedFlex
from tests.contracts.kernels.holding import ON_CPU
from tests.contracts.kernels.scored import CHANGES, hold_scores
from tests.random_specs import random_case, seeds

ALL = [names for count in (1, 2, 3) for names in combinations(CHANGES, count)]
EVERY_DAY, MANY = 2, 210

SOME = ("length 1", "no keys", "documents", "padding marked global", "offset", "odd heads")

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
on_cpu = pytest.mark.parametrize("kernel", [*ON_CPU, "flex"])


@pytest.fixture(autouse=True)
def flex_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run FlexAttention's masks and scores uncompiled, in place of the kernel for GPUs.

    Torch bars its own derivative on the CPU, where it is right all the same.
    """
    import torch.nn.attention.flex_attention as library

    monkeypatch.setattr(library, "_validate_device", lambda *inputs: None)
    monkeypatch.setitem(KERNELS, "flex", EmulatedFlex(backend=None))


@on_cpu
@pytest.mark.parametrize("seed", seeds(MANY, every_day=EVERY_DAY))
def test_random_specs(kernel: str, seed: int) -> None:
    case = random_case(seed)
    own = bool(seed % 2) and has_global_rows(case.pattern)
    hold_scores(kernel, case, ALL[seed % len(ALL)], own=own, learned_bias=kernel != "sdpa")


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        pytest.param(kernel, name, marks=() if name in of_kernel else pytest.mark.long)
        for kernel, of_kernel in [*((one, SOME) for one in ON_CPU), ("flex", SOME[3:4])]
        for name in HARD
    ],
)
def test_hard_shapes(kernel: str, name: str) -> None:
    hold_scores(kernel, HARD[name], CHANGES, learned_bias=kernel != "sdpa")


@pytest.mark.parametrize("kernel", ON_CPU)
@pytest.mark.parametrize("name", sp.names())
@pytest.mark.parametrize("names", ALL)
@pytest.mark.long
def test_presets(kernel: str, name: str, names: tuple[str, ...]) -> None:
    pattern = sp.get(name)
    marks = torch.zeros(2, 150, dtype=torch.bool)
    marks[0, [0, 7, 140]] = True
    fields = {"global_mask": marks} if uses(pattern, sp.BatchGlobal) else {}
    case = make_case(pattern, 150, layer=11, layers=12, **fields)
    hold_scores(kernel, case, names, learned_bias=kernel != "sdpa")


@pytest.mark.parametrize("kernel", [name for name in ON_CPU if name != "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.slow
def test_types(kernel: str, dtype: torch.dtype) -> None:
    case = make_case(sp.Window(9, 9, (1, 1, 2, 3)) | sp.Global((0, 50)), 97)
    hold_scores(kernel, case, CHANGES, dtype)
