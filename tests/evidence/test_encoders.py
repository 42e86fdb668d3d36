"""The rows of masked language models on a small encoder: one start, then lengthened and trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evidence import wikipedia
from evidence.encoders import COMMON, go_on, prepared
from lit_modules.weights import load_encoder, load_masked_lm

ARM: dict[str, Any] = {
    **COMMON,
    "base": {"length": 32, "rows": 2, "steps": 4, "rate": 1e-2, "seed": 0},
    "length": 64,
    "window": 8,
    "held_out": 2,
    "scored": 2,
    "steps": 4,
    "points": 2,
    "rate": 1e-2,
    "encoder": {},
}


@pytest.fixture(autouse=True)
def _short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wikipedia, "SHORTEST", 100)


def test_a_seed_gives_the_same_course_whether_or_not_the_start_is_there(small: Path) -> None:
    first = go_on(ARM, 3, small)
    assert [step for step, _ in first["course"]] == [0, 2, 4]
    assert (first["before"], first["after"]) == (first["course"][0][1], first["course"][-1][1])
    assert go_on(ARM, 3, small) == first
    assert go_on(ARM, 4, small)["course"] != first["course"]


def test_arms_start_from_the_same_weights_but_for_the_positions(small: Path) -> None:
    base, short = prepared(ARM, small.parents[1])
    assert prepared(ARM, small.parents[1]) == (base, short)
    found = {}
    for name in ("copied", "random"):
        keep = small / name
        arm = {**ARM, "encoder": {"positions": name, "train_only": "positions"}, "rate": 1e-30}
        found[name] = go_on(arm, 0, small, keep)
        assert found[name]["short"] == short
    assert found["copied"]["before"] != found["random"]["before"]
    start, *made = (load_masked_lm(folder) for folder in (base, small / "copied", small / "random"))
    position = "encoder.embeddings.position_embeddings.weight"
    for name, tensor in start.state_dict().items():
        for model in made if name != position else ():
            assert model.state_dict()[name].equal(tensor), name
    table = start.state_dict()[position]
    copies = load_encoder(small / "copied").embeddings.position_embeddings.weight
    assert len(copies) >= 64
    assert copies[-64:].reshape(2, 32, -1).equal(table[-32:].expand(2, -1, -1))


def test_another_start_is_made_anew(small: Path) -> None:
    first = prepared(ARM, small.parents[1])
    other = {**ARM, "base": {**ARM["base"], "steps": 5}}
    assert prepared(other, small.parents[1]) != first
