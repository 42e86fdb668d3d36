"""A cache of its own for each test, and the real samples where they are at hand."""

from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lets token files go to a folder of the test; returns it."""
    monkeypatch.setenv("SPARSE_PATTERNS_CACHE", str(tmp_path / "cache-home"))
    return tmp_path / "cache-home"


@pytest.fixture
def sample() -> Path:
    """Returns the folder of real samples, or skips the test."""
    if not SAMPLES.is_dir():
        pytest.skip("the real samples are not beside this repository")
    return SAMPLES
