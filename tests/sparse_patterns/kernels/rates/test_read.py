"""Rates and tolerances of GPU kernels are data, and say where they come from."""

from __future__ import annotations

import re

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.rates import read
from sparse_patterns.kernels.rates.read import rates, table, tolerances

FIELDS = {"kernel", "card", "call_seconds", "flop_rate", "element_rate", "partial_cost", "source"}


def test_every_line_says_where_it_comes_from() -> None:
    for line in (*table()["rates"], *table()["tolerances"]):
        assert re.fullmatch(r"guessed|measured \d{4}-\d\d-\d\d on .+", line["source"]), line
        assert line["kernel"] in KERNELS
    for line in table()["rates"]:
        assert set(line) <= FIELDS, line


def test_tolerances_are_those_of_the_kernels() -> None:
    for name in ("flex", "xformers_fused"):
        own = KERNELS[name].tolerances
        assert {key: (one.forward, one.gradient) for key, one in own.items()} == tolerances(name)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Lines of a file that is not there."""
    made: list[dict[str, object]] = [
        {
            "kernel": "flex",
            "card": "any",
            "call_seconds": 1.0,
            "flop_rate": {"float32": 2.0, "bfloat16": 4.0},
            "source": "guessed",
        },
        {"kernel": "flex", "card": "H100", "flop_rate": {"bfloat16": 8.0}, "source": "measured"},
        {"kernel": "flex", "card": "NVIDIA H100 PCIe", "call_seconds": 3.0, "source": "again"},
    ]
    monkeypatch.setattr(read, "table", lambda: {"rates": made, "tolerances": []})
    rates.cache_clear()
    yield made
    rates.cache_clear()


def test_a_card_takes_what_was_measured_on_it_and_the_rest_from_any(lines: object) -> None:
    plain, family = rates("flex", "NVIDIA A100"), rates("flex", "NVIDIA H100 80GB HBM3")
    assert (plain.call_seconds, plain.flops(torch.bfloat16), plain.sources) == (1, 4, ("guessed",))
    assert (family.call_seconds, family.flops(torch.bfloat16)) == (1, 8)
    assert family.flops(torch.float32) == 2
    assert family.sources == ("measured", "guessed")
    one = rates("flex", "NVIDIA H100 PCIe")
    assert (one.call_seconds, one.flops(torch.bfloat16), one.partial_cost) == (3, 8, 1)
    # A type that no line has is not taken to be quicker than those that are there.
    assert plain.flops(torch.float16) == 2


def test_a_kernel_without_a_line_for_all_cards_is_an_error(lines: list[object]) -> None:
    del lines[0]
    with pytest.raises(LookupError, match="no rates of kernel 'flex' for card 'any'"):
        rates("flex", "NVIDIA H100")


def test_the_estimate_of_a_kernel_follows_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sp.explain(sp.Window(64, 64), 512, heads=2, dtype=torch.bfloat16).plan
    kernel = KERNELS["flex"]
    from tests.sparse_patterns.kernels.flex.test_kernel import request

    asked = request(pattern=sp.Window(64, 64), q_len=512, kv_len=512)
    before = kernel.seconds(asked, plain)
    slow = read.Rates([{"call_seconds": 9.0, "flop_rate": {"bfloat16": 1e3}, "source": "guessed"}])
    monkeypatch.setattr("sparse_patterns.kernels.flex.kernel.rates", lambda name: slow)
    assert kernel.seconds(asked, plain) > 9 > before
