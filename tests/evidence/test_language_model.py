"""A training of the language-model rows gives the same figures twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from evidence import text
from evidence.language_model import COMMON, measure_pattern
from evidence.runs.patterns import ARMS, pairs

SMALL = {
    **COMMON,
    "model": {**COMMON["model"], "layers": 2, "width": 16},
    "table": [{"steps": 4, "sequence_length": 32, "batch_size": 2}],
    "evaluation": {"eval_length": 64, "eval_step": 32, "eval_batch_size": 4},
    "test_batches": 2,
    "validation_batches": 1,
    "validations": 2,
    "pattern": {"name": "longformer-causal", "window": 8, "dilation": 1},
}


@pytest.fixture
def _some_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text"
    path.write_bytes(Path(text.__file__).read_bytes() * 10)
    monkeypatch.setenv(text.VARIABLE, str(path))
    monkeypatch.setenv("SPARSE_PATTERNS_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.usefixtures("_some_text")
def test_a_seed_gives_the_same_figures_twice() -> None:
    first, second = measure_pattern(SMALL, 3), measure_pattern(SMALL, 3)
    for name in ("bits_per_byte", "tokens", "course"):
        assert first[name] == second[name]
    assert first["tokens"] == 4 * 32 * 2
    assert [tokens for tokens, _ in first["course"]] == [128, 256]
    assert 0 < first["bits_per_byte"] < 9


def test_the_text_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(text.VARIABLE, "nowhere.bz2")
    with pytest.raises(FileNotFoundError, match=r"--text or \$EVIDENCE_TEXT: there is no file"):
        text.wikipedia()
    monkeypatch.delenv(text.VARIABLE)
    monkeypatch.setattr(text, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"gensim==4\.4\.0"):
        text.wikipedia()


def test_patterns_have_as_many_pairs_as_the_protocol_says() -> None:
    budget = pairs(ARMS["window"])
    for name, pattern in ARMS.items():
        if name != "full":
            assert abs(pairs(pattern) / budget - 1) < 0.01, name
