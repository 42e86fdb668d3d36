"""What is installed is whole: a wheel, in an empty folder, trains far from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lit_modules.commands.configs.shipped import names
from tests.contracts.imports import ROOT

OURS = ("sparse_patterns", "lit_modules", "datamodules")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the source: a build leaves files beside it."""
    source = tmp_path_factory.mktemp("source")
    for name in OURS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    made = source / "dist"
    command = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(made), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [file] = made.glob("*.whl")
    return file


@pytest.mark.slow
def test_the_wheel_has_all_that_is_not_code(wheel: Path) -> None:
    found = set(zipfile.ZipFile(wheel).namelist())
    folder = "lit_modules/commands/configs"
    assert {f"{folder}/{name}.yaml" for name in names()} <= found
    assert {f"{name}/py.typed" for name in OURS} <= found
    assert "sparse_patterns/kernels/rates/cards.json" in found
    left_out = ("tests", "docs", "benchmarks", "evidence")
    assert not [name for name in found if name.startswith(left_out)]


# A narrow model; all commands in one process, which imports the libraries once.
AWAY = """
import lit_modules
from lit_modules.cli import main

print(lit_modules.__file__)
fit = ["fit", "--config", "lm/stdlib", "--trainer.max_steps=2", "--trainer.limit_val_batches=1"]
fit += ["--trainer.accelerator=cpu", "--run.test=false", "--run.pictures=false", "--run.sample=0"]
fit += ["--data.max_bytes=200000", "--data.val_fraction=0.2", "--data.test_fraction=0.2"]
fit += ["--model.width=16"]
show = ["patterns", "show", "patterns/window-and-sinks", "--length", "8"]
for words in (["configs", "list"], fit, show):
    print(">>", words[0])
    assert main(words) == 0
"""


@pytest.mark.slow
def test_it_trains_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    packages, folder = tmp_path / "packages", tmp_path / "elsewhere"
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-deps", "--target", str(packages), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(packages),
        "SPARSE_PATTERNS_CACHE": str(tmp_path / "cache"),
    }

    done = subprocess.run(
        [sys.executable, "-c", AWAY], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    start, listed, _, shown = done.stdout.split(">> ")
    assert str(packages) in start
    assert "lm/stdlib" in listed
    assert (folder / "runs" / "stdlib" / "checkpoints" / "last.ckpt").is_file()
    assert len(shown.splitlines()) >= 8
