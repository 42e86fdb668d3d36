"""A checkpoint is whole or not there."""

import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_modules.callbacks.checkpoints import (
    AtomicCheckpointIO,
    CheckpointError,
    best_checkpoint,
)
from sparse_patterns.config.files import whole_file


def test_a_checkpoint_is_written_under_its_name_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": torch.ones(3)}, file)
    assert torch.equal(torch.load(file, weights_only=True)["x"], torch.ones(3))
    assert [path.name for path in file.parent.iterdir()] == ["a.ckpt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full disk to try")
def test_a_disk_that_is_really_full_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": 1}, file)
    # Whatever is written to this device fails as on a full disk, from inside torch's own writer.
    with whole_file(file) as part:
        part.write_bytes(file.read_bytes())
    part.symlink_to("/dev/full")
    message = r"cannot write checkpoint .*a\.ckpt: No space left on device; .* is kept"
    with pytest.raises(CheckpointError, match=message):
        AtomicCheckpointIO().save_checkpoint({"x": torch.zeros(100_000)}, file)
    assert torch.load(file, weights_only=True) == {"x": 1}
    assert not part.is_symlink()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        CheckpointError, match=r"cannot write checkpoint .*a\.ckpt: (Not a directory|File exists)"
    ):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "file" / "a.ckpt")


def test_the_best_checkpoint_is_found_in_the_state_of_earlier_runs(tmp_path: Path) -> None:
    before = ModelCheckpoint(
        dirpath=tmp_path, filename="best", monitor="val/loss", mode="min",
        auto_insert_metric_name=False, enable_version_counter=False,
    )  # fmt: skip
    assert best_checkpoint(tmp_path, "val/loss").state_key == before.state_key
