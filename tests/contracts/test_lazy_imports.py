"""Importing a package is quick and silent, and loads no optional library.

Each measurement runs in a fresh interpreter, since this one has long imported everything.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
OPTIONAL = {
    "matplotlib",
    "pyarrow",
    "safetensors",
    "scipy",
    "tensorboard",
    "tokenizers",
    "transformers",
    "xformers",
}

# What the install brings and `sparse_patterns` does not need.
MISSING = OPTIONAL | {
    "jsonargparse",
    "lightning",
    "omegaconf",
    "pytorch_lightning",
    "torchmetrics",
    "tqdm",
}
# What torch itself loads late.
OF_TORCH = {"numpy", "sympy", "mpmath", "typing_extensions"}

# What each package rests on. Lightning and torchmetrics load some optional libraries themselves,
# so only what comes on top is a package's own doing.
BELOW = {
    "sparse_patterns": ["torch"],
    "datamodules": ["torch", "lightning.pytorch", "omegaconf", "sparse_patterns.registry"],
    "lit_modules": ["torch", "lightning.pytorch", "torchmetrics", "omegaconf", "sparse_patterns"],
}

ALLOWED_S = 0.5
ROUNDS = 3

# CPU seconds, not wall seconds: what other processes do meanwhile does not count.
SCRIPT = """
import importlib, json, sys, time
for name in {below}:
    importlib.import_module(name)
before, start = set(sys.modules), time.process_time()
importlib.import_module({package!r})
seconds = time.process_time() - start
with open({report!r}, "w") as file:
    json.dump({{"seconds": seconds, "modules": sorted(set(sys.modules) - before)}}, file)
"""


class Result(NamedTuple):
    seconds: float
    modules: set[str]
    printed: str


def import_once(package: str, *, below: list[str]) -> Result:
    """Imports `package` in a new interpreter after everything in `below`."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        script = SCRIPT.format(below=below, package=package, report=str(report))
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        answer = json.loads(report.read_text())
    return Result(answer["seconds"], set(answer["modules"]), done.stdout)


@cache
def import_after_its_base(package: str) -> Result:
    return import_once(package, below=BELOW[package])


def top_level(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


@pytest.mark.parametrize("package", BELOW)
def test_importing_is_silent_and_loads_what_the_package_rests_on_alone(package: str) -> None:
    found = import_after_its_base(package)
    assert found.printed == ""
    loaded = top_level(found.modules)
    assert loaded & OPTIONAL == set()
    assert loaded & set(BELOW) <= {package, "sparse_patterns"}, "the packages do not import others"
    if package == "sparse_patterns":
        assert loaded - set(sys.stdlib_module_names) - {"torch", package} <= OF_TORCH


@pytest.mark.slow
def test_the_file_for_hugging_face_models_loads_their_library_when_it_is_used() -> None:
    found = import_once("sparse_patterns.huggingface", below=["torch"]).modules
    assert top_level(found) & OPTIONAL == set()


@pytest.mark.slow
def test_attention_runs_where_torch_alone_is_installed() -> None:
    """The README says so; a library that is missing is one whose import fails."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(MISSING)}))\n"
        "import torch, sparse_patterns as sp\n"
        "pattern = sp.from_config(sp.to_config(sp.Window(8, 8) | sp.Global((0,))))\n"
        "q = torch.randn(1, 4, 100, 16, requires_grad=True)\n"
        "sp.attention(q, q, q, pattern).sum().backward()\n"
        "sp.explain(pattern, 100, heads=4), sp.show(pattern, 16)\n"
        "sp.SparseSelfAttention(16, 4, pattern)(torch.randn(1, 20, 16))\n"
        "print(q.grad.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[1, 4, 100, 16]" in done.stdout


@pytest.mark.long  # a time, which other work on the machine changes
@pytest.mark.parametrize("package", BELOW)
def test_importing_takes_no_more_than_its_base_and_half_a_second(package: str) -> None:
    first = import_after_its_base(package).seconds
    if first > ALLOWED_S:  # once may be bad luck; the median of several is not
        again = [import_once(package, below=BELOW[package]).seconds for _ in range(ROUNDS - 1)]
        assert statistics.median([first, *again]) <= ALLOWED_S


def test_what_is_loaded_and_printed_is_seen() -> None:
    found = import_once("this", below=["json"])
    assert "this" in found.modules
    assert "Zen of Python" in found.printed
    assert found.seconds > 0
