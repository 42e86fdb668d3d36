"""Importing a package is quick and silent, and loads no optional library.

Each measurement runs in a process that has imported nothing but what the package rests on, since
this one has long imported everything.
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
    "sparse_patterns.huggingface": ["torch"],
    "datamodules": ["torch", "lightning.pytorch", "omegaconf", "sparse_patterns.registry"],
    "lit_modules": ["torch", "lightning.pytorch", "torchmetrics", "omegaconf", "sparse_patterns"],
}

PACKAGES = [name for name in BELOW if "." not in name]
ALLOWED_S = 0.5
ROUNDS = 3

# Each package is imported in a fork of an interpreter that has what is below it, so that packages
# with the same below them share its import. CPU seconds, not wall seconds: what other processes do
# meanwhile does not count.
SCRIPT = """
import importlib, json, os, sys, time, traceback

def measure(package, folder):
    log = os.open(os.path.join(folder, "printed"), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1), os.dup2(log, 2)
    before, start = set(sys.modules), time.process_time()
    importlib.import_module(package)
    seconds = time.process_time() - start
    with open(os.path.join(folder, "report.json"), "w") as file:
        json.dump({{"seconds": seconds, "modules": sorted(set(sys.modules) - before)}}, file)

for below, package, folder in {wanted}:
    for name in below:
        importlib.import_module(name)
    child = os.fork()
    if not child:
        try:
            measure(package, folder)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(0)
    os.waitpid(child, 0)
"""


class Result(NamedTuple):
    seconds: float
    modules: set[str]
    printed: str


def import_each(below: dict[str, list[str]]) -> dict[str, Result]:
    """Imports each package after what is below it: of each, all that is below those before it."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    with tempfile.TemporaryDirectory() as root:
        folders = {package: Path(root, package) for package in below}
        for folder in folders.values():
            folder.mkdir()
        wanted = [(names, package, str(folders[package])) for package, names in below.items()]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(wanted=wanted)],
            capture_output=True,
            cwd=ROOT,
            env=environment,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found = {}
        for package, folder in folders.items():
            printed = (folder / "printed").read_text()
            assert (folder / "report.json").exists(), printed
            answer = json.loads((folder / "report.json").read_text())
            found[package] = Result(answer["seconds"], set(answer["modules"]), printed)
    return found


@cache
def import_all_after_their_bases() -> dict[str, Result]:
    return import_each(BELOW)


def import_after_its_base(package: str) -> Result:
    return import_all_after_their_bases()[package]


def top_level(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_is_silent_and_loads_what_the_package_rests_on_alone(package: str) -> None:
    found = import_after_its_base(package)
    assert found.printed == ""
    loaded = top_level(found.modules)
    assert loaded & OPTIONAL == set()
    assert loaded & set(PACKAGES) <= {package, "sparse_patterns"}, (
        "the packages do not import others"
    )
    if package == "sparse_patterns":
        assert loaded - set(sys.stdlib_module_names) - {"torch", package} <= OF_TORCH


@pytest.mark.slow
def test_the_file_for_hugging_face_models_loads_their_library_when_it_is_used() -> None:
    found = import_after_its_base("sparse_patterns.huggingface").modules
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
@pytest.mark.parametrize("package", PACKAGES)
def test_importing_takes_no_more_than_its_base_and_half_a_second(package: str) -> None:
    first = import_after_its_base(package).seconds
    if first > ALLOWED_S:  # once may be bad luck; the median of several is not
        below = {package: BELOW[package]}
        again = [import_each(below)[package].seconds for _ in range(ROUNDS - 1)]
        assert statistics.median([first, *again]) <= ALLOWED_S


def test_what_is_loaded_and_printed_is_seen() -> None:
    found = import_each({"this": ["json"]})["this"]
    assert "this" in found.modules
    assert "Zen of Python" in found.printed
    assert found.seconds > 0
