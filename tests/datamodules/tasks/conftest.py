"""Files of the small task."""

from pathlib import Path

import pytest

from tests.datamodules.tasks.toy import records_of, write


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train.jsonl", records_of(10))
    write(tmp_path / "data" / "dev.jsonl", records_of(5, "d"))
    return str(tmp_path / "data")
