"""Records: written in full or not at all, and refused where they do not fit the protocol."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evidence import records, running
from tests.evidence.fake import PROTOCOL, ROW


def test_what_cannot_be_written_leaves_the_record_as_it_was(tmp_path: Path) -> None:
    record = running.measure(ROW, "large", 0)
    path = records.write(tmp_path, record)
    before = path.read_bytes()
    broken = replace(record, figures={**record.figures, "loss": float("nan")})
    with pytest.raises(ValueError, match="JSON compliant"):
        records.write(tmp_path, broken)
    with pytest.raises(TypeError, match="serializable"):
        records.write(tmp_path, replace(record, figures={"loss": object()}))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["large-seed0.json"]


def test_a_record_says_how_it_was_made(tmp_path: Path) -> None:
    found = json.loads(records.write(tmp_path, running.measure(ROW, "large", 0)).read_text())
    assert found["configuration"] == {"steps": 5, "rate": 0.1}
    assert (found["row"], found["arm"], found["seed"]) == ("fake-row", "large", 0)
    assert found["about"]["threads"] == 1
    for name in ("date", "python", "torch", "lightning", "commit", "processor"):
        assert found["about"][name]


def test_a_record_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = records.write(tmp_path, running.measure(ROW, "large", 0))
    other = replace(PROTOCOL, common={"steps": 6})
    with pytest.raises(ValueError, match="another configuration"):
        records.read(tmp_path, other)
    content = json.loads(path.read_text())
    del content["figures"]["loss"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has no figure 'loss'"):
        records.read(tmp_path, PROTOCOL)
    path.write_text("{")
    with pytest.raises(ValueError, match="is no record"):
        records.read(tmp_path, PROTOCOL)
    path.rename(path.with_name("huge-seed0.json"))
    with pytest.raises(ValueError, match="belongs to no arm"):
        records.read(tmp_path, PROTOCOL)
