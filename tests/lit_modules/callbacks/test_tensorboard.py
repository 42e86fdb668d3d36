"""The TensorBoard log of a run."""

from pathlib import Path

import pytest

from lit_modules.callbacks.tensorboard import LateTensorBoard

pytest.importorskip("tensorboard")


def test_the_folder_is_made_when_something_is_written(tmp_path: Path) -> None:
    log = LateTensorBoard(tmp_path / "run", name="", version="tensorboard")
    assert log.experiment is not None
    assert not (tmp_path / "run").exists()
    log.log_metrics({"loss": 1.0}, 1)
    log.experiment.add_scalar("more", 2.0, 1)
    log.finalize("success")
    (file,) = (tmp_path / "run" / "tensorboard").glob("events.*")
    assert file.stat().st_size > 0
