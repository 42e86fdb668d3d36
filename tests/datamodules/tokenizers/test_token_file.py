"""Token files are mapped, not read, and travel to other processes."""

import array
import pickle
from pathlib import Path

import pytest
import torch

from datamodules.tokenizers.token_file import TokenFile, width_for


@pytest.mark.parametrize(
    ("count", "width"), [(1, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4), (2**32, 4)]
)
def test_width(count: int, width: int) -> None:
    assert width_for(count) == width


@pytest.mark.parametrize(
    ("code", "width", "top"), [("B", 1, 255), ("H", 2, 65_535), ("I", 4, 2**32 - 1)]
)
def test_reads_what_was_written(tmp_path: Path, code: str, width: int, top: int) -> None:
    path = tmp_path / "x.tokens"
    path.write_bytes(array.array(code, [3, top, 0, 7]).tobytes())
    path.chmod(0o444)
    file = TokenFile(path, width)
    assert len(file) == 4
    assert file.read(1, 4).tolist() == [top, 0, 7]
    assert file.read(0, 1).dtype == torch.int64
    assert file.read_around(3, 6).tolist() == [7, 3, top, 0, 7, 3]
    again = pickle.dumps(file)
    assert len(again) < 1000, "the numbers themselves must not travel"
    assert pickle.loads(again).read(0, 2).tolist() == [3, top]


def test_an_empty_file_reads_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    assert TokenFile(tmp_path / "x", 2).read(0, 5).tolist() == []
