"""Cases, and the float64 reference they are held to: those of the tests of this checkout.

They are loaded by file when they are asked for. The tests import the benchmarks, not the other way
round, and a package named `tests` that is installed somewhere is not taken for them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import sparse_patterns as sp
from sparse_patterns.spec.base import uses

FOLDER = Path(__file__).parents[2] / "tests"


def load(name: str) -> ModuleType:
    """Return a module of the tests by its name there.

    Raises:
        ImportError: It is not there, or needs a library that is not.
    """
    found = sys.modules.get("tests")
    if found is None or str(FOLDER) not in map(str, getattr(found, "__path__", ())):
        package = ModuleType("tests")
        package.__path__ = [str(FOLDER)]
        sys.modules["tests"] = package
    return importlib.import_module(f"tests.{name}")


def make_case(pattern: sp.Pattern, q_len: int, **fields: Any) -> Any:
    """Return a case of a pattern and a length, with defaults for the rest."""
    return load("contracts.kernels.cases").make_case(pattern, q_len, **fields)


def presets() -> Iterator[tuple[str, Any]]:
    """The presets in a model of 12 layers, the last and the first."""
    for name in sp.names():
        pattern = sp.get(name)
        marks = torch.zeros(2, 301, dtype=torch.bool)
        marks[0, [0, 7, 300]] = True
        given = {"global_mask": marks} if uses(pattern, sp.BatchGlobal) else {}
        for layer in (11, 0):
            yield f"{name}, layer {layer}", make_case(pattern, 301, layer=layer, layers=12, **given)


def hard_shapes() -> list[tuple[str, Any]]:
    """The cases that are hard for kernels, by name."""
    return list(load("contracts.kernels.cases").HARD.items())


def random_specs(first: int, count: int) -> Iterator[tuple[str, Any]]:
    """Random specs of the whole algebra."""
    for seed in range(first, first + count):
        yield f"spec {seed}", load("random_specs").random_case(seed)


def reference(*inputs: Any, **context: Any) -> Any:
    """Return output, log-sum-exp and gradients in float64."""
    return load("contracts.kernels.reference").reference(*inputs, **context)
