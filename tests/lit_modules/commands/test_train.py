"""Trainer commands as a new user runs them: each says what it should, and nothing twice."""

import json
import warnings
from pathlib import Path

import pytest
import yaml

from lit_modules.cli import main
from tests.lit_modules.task_files import files_of

SMALL = [
    *("--model.encoder.layers=1", "--model.encoder.heads=2", "--model.encoder.width=16"),
    *("--model.encoder.window=16", "--model.encoder.max_length=64", "--data.cache_dir=cache"),
    *("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--run.pictures=false"),
    *("--run.name=run", "--trainer.enable_progress_bar=false"),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def files() -> dict[str, str]:
    """The files of small documents by split; of each, one record has no text."""
    found = files_of("imdb", Path("files"))
    return {split: f"--data.{split}={file}" for split, file in found.items()}


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> tuple[str, list[str]]:
    """Runs a command; returns its output and the lines on standard error."""
    capsys.readouterr()
    assert main([*words]) == status
    printed = capsys.readouterr()
    return printed.out, printed.err.splitlines()


def test_what_was_cut_is_said_once(
    capsys: pytest.CaptureFixture[str], files: dict[str, str]
) -> None:
    words = ["--data=imdb", *files.values(), "--data.max_length=16", *SMALL]
    expected = [
        f"Imdb {split}: {count} of {count}: text cut to max_length 16 tokens"
        for split, count in (("train", 8), ("val", 4), ("test", 4))
    ]
    _, first = said(capsys, "fit", *words)
    assert [line.partition(" (")[0] for line in first] == expected
    for command in ("validate", "test", "predict"):
        _, later = said(capsys, command, *words, "--ckpt_path=best")
        assert later == [], command
    _, again = said(capsys, "test", *words, "--ckpt_path=best", "--verbose")
    assert again == first
    # With a value, it is an option of Lightning.
    assert said(capsys, "test", *words, "--ckpt_path=best", "--verbose", "false")[1] == []


def test_a_split_that_is_not_there(
    capsys: pytest.CaptureFixture[str], files: dict[str, str]
) -> None:
    words = ["--data=imdb", files["train"], *SMALL]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        printed, errors = said(capsys, "fit", *words)
    assert errors == []
    assert [str(one.message) for one in warned] == []
    assert "Imdb has no test split, so nothing was tested. Run folder: runs/run" in printed
    figures = json.loads(Path("runs/run/figures.json").read_text())
    assert {"parameters", "optimizer steps", "train/loss"} <= set(figures)
    assert "Figures" in printed
    assert all(name in printed for name in figures)
    for command, part in (("test", "test"), ("validate", "val")):
        _, errors = said(capsys, command, *words, "--ckpt_path=last", status=1)
        assert errors == [
            f"sparse-patterns: error: Imdb has no {part} split to {command} on; it has train. Give "
            f"the files of one, or a share of the training data (--data.{part}_fraction)"
        ]
    _, errors = said(capsys, "predict", *words, "--ckpt_path=last", status=1)
    assert "neither a test nor a validation split to predict on, only train" in errors[0]
    with_val = [*words, files["val"]]
    _, errors = said(capsys, "test", *with_val, "--ckpt_path=last", status=1)
    assert "Imdb has no test split to test on; it has train and val. Give" in errors[0]
    said(capsys, "validate", *with_val, "--ckpt_path=last")


def test_one_file_is_the_path_of_a_data_set(
    capsys: pytest.CaptureFixture[str], files: dict[str, str]
) -> None:
    file = files["train"].partition("=")[2]
    share = ["--data.val_fraction=0.3", "--data.test_fraction=0.3"]
    printed, _ = said(capsys, "fit", "--data=imdb", f"--data.path={file}", *share, *SMALL)
    assert "test/accuracy" in printed


def test_training_files_go_before_the_path_of_a_configuration(
    capsys: pytest.CaptureFixture[str], files: dict[str, str]
) -> None:
    words = ["--config=tasks/imdb-tiny", "--data.val_fraction=0.3", *SMALL]
    _, errors = said(capsys, "fit", *words, status=2)
    assert "--config tasks/imdb-tiny, data.path: 'data/aclImdb' names no file" in errors[0]
    said(capsys, "fit", *words, files["train"])
    config = yaml.safe_load(Path("runs/run/config.yaml").read_text())
    assert config["data"]["init_args"]["path"] is None
    assert config["data"]["init_args"]["train"] == files["train"].partition("=")[2]


@pytest.mark.parametrize(
    "given",
    [
        ["--stages=null"],
        ["--config", "none"],
        pytest.param(["--stages", "null"], marks=pytest.mark.long),
    ],
)
def test_no_stages(capsys: pytest.CaptureFixture[str], given: list[str]) -> None:
    Path("none").write_text("stages: null\n")
    Path("text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    config = {
        "data": {"name": "text-files", "files": "text.txt", "sequence_length": 16},
        "model": {"layers": 1, "heads": 2, "width": 8, "pattern": "streaming"},
        "stages": {"table": [{"steps": 9, "sequence_length": 32, "batch_size": 2}]},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "max_steps": 2},
        "run": {"sample": 0, "pictures": False, "name": "run"},
    }
    Path("small.yaml").write_text(yaml.safe_dump(config))
    words = ["--data.cache_dir=cache", "--trainer.log_every_n_steps=1"]
    said(capsys, "fit", "--config", "small.yaml", *given, *words)
    saved = yaml.safe_load(Path("runs/run/config.yaml").read_text())
    assert saved["stages"]["table"] is None
    assert saved["stages"]["doubling"] is None
    # The length is that of the data set, not that of a stage.
    said(capsys, "test", "--config", "runs/run/config.yaml", "--ckpt_path", "last")
    assert Path("runs/run/figures.json").is_file()
