"""Thousands of random specs through every kernel of the CPU; `make test-long` runs them.

`SPECS=200 FIRST=5000 make test-long ARGS=tests/contracts/kernels/test_many_specs.py` takes others.
"""

import os

import pytest

from sparse_patterns.kernels.dispatch import KERNELS
from tests.contracts.kernels.holding import hold_random

SPECS = int(os.environ.get("SPECS", "10000"))
FIRST = int(os.environ.get("FIRST", "100000"))
"""The first seed: others than those that `test_random_specs` takes."""

CHUNK = 50
ON_CPU = ("dense", "tiles", "xformers_blocks")


def test_the_kernels_of_the_cpu_are_known() -> None:
    assert set(ON_CPU) <= set(KERNELS)


@pytest.mark.long
@pytest.mark.parametrize("kernel", ON_CPU)
@pytest.mark.parametrize("start", range(FIRST, FIRST + SPECS, CHUNK))
def test_random_specs(kernel: str, start: int) -> None:
    for seed in range(start, min(start + CHUNK, FIRST + SPECS)):
        try:
            hold_random(kernel, "cpu", seed)
        except Exception as error:
            again = f"FIRST={seed} SPECS=1 make test-long ARGS='-k many_specs'"
            raise AssertionError(f"seed {seed} of kernel {kernel}; once more: {again}") from error
