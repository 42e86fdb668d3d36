"""One place for each version: pyproject.toml for bounds, constraints.txt for pins."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import sparse_patterns as sp
from sparse_patterns.kernels.block_sparse import library as block_sparse
from sparse_patterns.kernels.flex import public

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text("utf-8").split()
    if "==" in line
)


def bound(library: str) -> str:
    """The least version of a library that pyproject.toml allows."""
    (found,) = re.findall(rf'^    "{library}(?:\[\w+\])?>=([\d.]+)', PROJECT, re.MULTILINE)
    return found


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_the_version_is_that_of_the_project() -> None:
    (written,) = re.findall(r'^version = "(.+)"$', PROJECT, re.MULTILINE)
    assert sp.__version__ == written
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"version: {written}" in citation.splitlines()


@pytest.mark.slow
def test_a_checkout_that_is_not_installed_says_so() -> None:
    code = (
        "from importlib import metadata\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
        "import sparse_patterns\n"
        "print(sparse_patterns.__version__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "unknown"


def test_the_bound_of_xformers_is_that_of_its_kernels() -> None:
    assert bound("xformers") == block_sparse.MINIMUM


def test_flex_needs_no_older_torch_than_the_package() -> None:
    assert numbers(bound("torch")) <= public.OLDEST <= numbers(PINS["torch"])
    assert public.DIRECT <= numbers(PINS["torch"])


def test_the_guide_to_kernels_names_these_versions() -> None:
    text = (ROOT / "docs" / "kernels.md").read_text("utf-8")
    assert set(re.findall(r"xformers (\d[\d.]*\d) or newer", text)) == {block_sparse.MINIMUM}
    least = ".".join(map(str, public.OLDEST))
    assert set(re.findall(r"torch (\d[\d.]*\d) or newer", text)) == {least}


def test_the_python_versions_agree() -> None:
    (least,) = re.findall(r'^requires-python = ">=([\d.]+)"$', PROJECT, re.MULTILINE)
    named = re.findall(r"Programming Language :: Python :: (3\.\d+)", PROJECT)
    assert min(named, key=numbers) == least
    assert f'target-version = "py{least.replace(".", "")}"' in PROJECT
    assert f"Python {least} or newer" in (ROOT / "README.md").read_text("utf-8")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert re.findall(r'"(3\.\d+)"', workflow) == named


@pytest.mark.parametrize("library", ["torch", "lightning", "xformers"])
def test_the_tests_run_with_a_version_that_is_allowed(library: str) -> None:
    assert numbers(PINS[library]) >= numbers(bound(library))
