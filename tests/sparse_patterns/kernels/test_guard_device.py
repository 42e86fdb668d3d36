"""On a device a row is undefined exactly where it sees a number that is not finite.

The kernels of a GPU run as their emulations, prepared as they are there. What a value does not
touch must be that of the same call with 0 in its place, and all that it touches undefined.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.kernels import guard_device
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.flex import public
from tests.contracts.kernels.cases import make_case
from tests.contracts.kernels.emulated.flex import EmulatedFlex
from tests.contracts.kernels.emulated.fused import EmulatedFused
from tests.contracts.kernels.holding import hold
from tests.contracts.kernels.test_invisible import (
    NAMES,
    PLACES,
    PRESETS,
    VALUES,
    Found,
    run,
    setup_of,
)

DEVICE = ("flex", "flex by autograd", "xformers_blocks", "xformers_fused")


@pytest.fixture(autouse=True)
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare the calls of the kernels that are prepared on a GPU; nobody looks at them."""
    import torch.nn.attention.flex_attention as library

    monkeypatch.setattr(library, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(library, "_validate_device", lambda *inputs: None)
    monkeypatch.setitem(KERNELS, "flex", EmulatedFlex(None))
    monkeypatch.setitem(KERNELS, "xformers_fused", EmulatedFused())
    monkeypatch.setattr(guard_device, "serves", lambda kernel, call: kernel.replaces_hidden)


@pytest.fixture(params=DEVICE)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a kernel."""
    name, _, way = request.param.partition(" ")
    assert KERNELS[name].replaces_hidden
    if way:
        monkeypatch.setattr(public, "version", lambda: (2, 10))
    return name


def hold_touched(got: Found, clean: Found, touched: list[Tensor]) -> None:
    """Hold what is not touched to a clean call, and all else to be undefined."""
    for name, rows in zip(got.all(), touched, strict=True):
        found, want = got.all()[name], clean.all()[name]
        torch.testing.assert_close(found[~rows], want[~rows], rtol=1e-5, atol=1e-5, msg=name)
        assert not found[rows].isfinite().any(), name


EVERY_DAY = ((0, "inf"), (1, "nan"), (2, "1e38"))
SEVERAL = pytest.mark.parametrize(
    ("number", "value"),
    [
        *EVERY_DAY,
        *(
            pytest.param(number, value, marks=pytest.mark.long)
            for number in range(3)
            for value in VALUES
            if (number, value) not in EVERY_DAY
        ),
    ],
)


@SEVERAL
@pytest.mark.parametrize(
    ("preset", "place"),
    [
        pytest.param(x, y, marks=() if (x, y) == ("longformer", "outside") else pytest.mark.long)
        for x in PRESETS
        for y in PLACES
    ],
)
def test_rows_that_see_a_value_are_undefined_and_no_others(
    kernel: str, preset: str, place: str, number: int, value: str
) -> None:
    setup = setup_of(preset, place, number, value)
    assert setup.touched()[0].any() == (place != "padding")
    hold_touched(
        run(kernel, setup, "cpu"), run(kernel, replace(setup, value=0.0), "cpu"), setup.touched()
    )


@pytest.mark.parametrize(
    "number",
    [3, *(pytest.param(x, marks=pytest.mark.long) for x in (1, 4, 5))],
    ids=NAMES.__getitem__,
)
def test_own_projections_of_global_rows(kernel: str, number: int) -> None:
    setup = setup_of("longformer", "documents", number, "nan", own=True)
    hold_touched(
        run(kernel, setup, "cpu"), run(kernel, replace(setup, value=0.0), "cpu"), setup.touched()
    )


def test_dropout_and_half_types(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of("longformer", "documents", 2, "inf")
    one, other = (run("xformers_blocks", x, "cpu", 0.3) for x in (setup, replace(setup, value=0.0)))
    hold_touched(one, other, setup.touched())
    for name in ("xformers_blocks", "xformers_fused"):
        half = {torch.bfloat16: KERNELS[name].tolerances[torch.bfloat16]}
        monkeypatch.setattr(type(KERNELS[name]), "tolerances", half)
        one, other = (run(name, x, "cpu") for x in (setup, replace(setup, value=0.0)))
        hold_touched(one, other, setup.touched())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_stays_in_its_row(kernel: str, value: float) -> None:
    """With sinks too, and where the row sees nothing."""
    x = torch.randn(3, 1, 2, 24, 8)
    real = torch.arange(24)[None] < 20
    found = []
    for given in (value, 0.0):
        leaves = [one.clone().requires_grad_() for one in x]
        sinks = torch.zeros(2)
        out, lse = sp.attention(
            *leaves,
            sp.Window(2, 2),
            key_mask=real,
            kernel=kernel,
            sinks=sinks,
            return_lse=True,
        )
        upstream = [torch.ones_like(out), torch.ones_like(lse)]
        upstream[0][0, 0, 5, 1] = upstream[0][0, 0, 22] = upstream[1][0, 1, 9] = given
        found.append(torch.autograd.grad([out, lse], leaves, upstream))
    for number, (got, want) in enumerate(zip(*found, strict=True)):
        rows = torch.zeros(1, 2, 24, dtype=torch.bool)
        around = 2 if number else 0
        rows[0, 0, 5 - around : 6 + around] = rows[0, 1, 9 - around : 10 + around] = True
        torch.testing.assert_close(got[~rows], want[~rows])
        assert not got[rows].isfinite().any()


def test_finite_calls_are_what_they_were(kernel: str) -> None:
    pattern = sp.Window(9, 4, (1, 1, 2, 3)) | sp.Global((0, 50))
    hold(kernel, make_case(pattern, 97), torch.float64)
    x = torch.randn(2, 20, 2, 8).transpose(1, 2)
    out = sp.attention(x, x, x, sp.Window(2, 2), kernel=kernel)
    assert isinstance(out, torch.Tensor)
    assert out.stride() == x.stride()


def test_which_kernels_are_prepared() -> None:
    assert {name for name, one in KERNELS.items() if one.replaces_hidden} == {
        "flex",
        "xformers_blocks",
        "xformers_fused",
    }
