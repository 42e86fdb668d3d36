"""All arms run, and each is another model."""

from __future__ import annotations

from pathlib import Path

from evidence.runs import global_tokens


def test_the_arms_differ(tmp_path: Path) -> None:
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
