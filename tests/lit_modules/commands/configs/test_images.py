"""The page about images: its data set and head are files of a user, and its program trains."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from lit_modules.cli import main

pytest.importorskip("sklearn")

ONE_STEP = [
    *("--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.logger=false"),
    *("--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"),
    *("--trainer.accelerator=cpu", "--run.pictures=false", "--run.test=false"),
]
PAGE = Path(__file__).parents[4] / "docs" / "images.md"
MODULE, PROGRAM = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def _file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("digits.py").write_text(MODULE)
    yield
    sys.modules.pop("digits", None)


LATER = ("full", "{name: axial, shape: [8, 8]}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern", [None, *(pytest.param(one, marks=pytest.mark.long) for one in LATER)]
)
def test_the_configuration_trains_a_step(
    pattern: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [] if pattern is None else ["--model.encoder.pattern", pattern]
    status = main(["fit", "--import", "digits", "--config", "images/digits", *words, *ONE_STEP])
    assert status == 0, capsys.readouterr().err


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_the_program_learns() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(PROGRAM, str(PAGE), "exec"), names)
    assert float(names["trainer"].callback_metrics["test/accuracy"]) > 0.9
