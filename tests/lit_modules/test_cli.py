"""The command line, called as a user would: runs, resumes, and errors of one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_modules.cli import main
from lit_modules.commands.errors import UsageError

ROOT = Path(__file__).parents[2]
TEXT = "the quick brown fox jumps over the lazy dog, and then it does so once again.\n" * 60


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Works in a folder with a small text and a small configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARSE_PATTERNS_CACHE", str(tmp_path / "cache"))
    # Both are set for the whole process by a seeded run.
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))


SMALL: dict[str, Any] = {
    "data": {
        "name": "text-files",
        "files": "text.txt",
        "sequence_length": 16,
        "cache_dir": "cache",
    },
    "model": {"layers": 1, "heads": 2, "width": 8, "pattern": {"window": {"before": 4}}},
    "stages": {
        "table": [
            {"steps": 3, "sequence_length": "${data.sequence_length}", "batch_size": 2},
            {"steps": 2, "sequence_length": 32, "batch_size": 2, "window_scale": 2.0},
        ]
    },
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
    "run": {"sample": 8, "pictures": False},
}


def run(*words: str) -> None:
    assert main([*words]) == 0


def fit(*words: str) -> None:
    run("fit", "--config", "small.yaml", "--run.test", "false", *words)


def saved(file: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(file, weights_only=True)
    return content


@pytest.mark.slow
def test_a_run_leaves_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    run("fit", "--config", "small.yaml", "--run.pictures", "true")
    folder = Path("runs/small")
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*")}
    assert {
        "config.yaml",
        "metrics.csv",
        "tensorboard",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "curves.png",
        "patterns.png",
        "figures.json",
        "sample.txt",
    } <= names
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["optimizer steps"] == 5
    assert figures["training tokens"] == 3 * 2 * 16 + 2 * 2 * 32
    assert 4 < figures["test/bpb"] < 9
    printed = capsys.readouterr().out
    assert "test/bpb" in printed
    assert "Run folder: runs/small" in printed
    # The saved configuration alone finds run, model and data again.
    run("test", "--config", "runs/small/config.yaml", "--ckpt_path", "best")
    assert json.loads((folder / "figures.json").read_text())["test/bpb"] == figures["test/bpb"]


def test_interpolations_follow_the_command_line() -> None:
    fit("--data.sequence_length", "24", "--trainer.max_steps", "1")
    config = yaml.safe_load(Path("runs/small/config.yaml").read_text())
    assert config["stages"]["table"][0]["sequence_length"] == 24
    assert config["data"]["init_args"]["sequence_length"] == 24


def test_names_of_data_and_pattern_are_enough() -> None:
    run(
        *("fit", "--data", "recall", "--data.distance", "8", "--model.layers", "1"),
        *("--model.pattern", "streaming", "--model.width", "8", "--model.heads", "2"),
        *("--trainer.max_epochs", "1", "--data.train_batches", "2", "--trainer.accelerator", "cpu"),
        *("--run.pictures", "false", "--run.sample", "0", "--trainer.log_every_n_steps", "1"),
    )
    content = saved("runs/recall/checkpoints/last.ckpt")
    assert content["global_step"] == 2
    # What the model must know of its data comes from the data.
    assert content["hyper_parameters"]["vocabulary_size"] == 24
    assert content["hyper_parameters"]["unit"] == "token"


def test_a_data_set_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_data.py").write_text(
        "from datamodules import Recall, register\n"
        "@register('near-recall')\n"
        "class Near(Recall):\n"
        "    '''Recall from nearby.'''\n"
        "    def __init__(self, sequence_length: int = 24):\n"
        "        super().__init__(distance=4, train_batches=1, eval_batches=1)\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    small = ["--model.layers", "1", "--model.width", "8", "--model.heads", "2"]
    run(
        *("fit", "--import", "my_data", "--data", "near-recall", *small),
        *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--run.sample", "0"),
        *("--run.pictures", "false", "--trainer.log_every_n_steps", "1"),
    )
    assert Path("runs/near/checkpoints/best.ckpt").exists()


def test_a_second_run_does_not_overwrite_the_first() -> None:
    fit()
    first = Path("runs/small/checkpoints/last.ckpt").read_bytes()
    fit("--trainer.max_steps", "1")
    assert Path("runs/small/checkpoints/last.ckpt").read_bytes() == first
    assert saved("runs/small-2/checkpoints/last.ckpt")["global_step"] == 1


def test_a_resume_continues_log_and_checkpoint_with_a_longer_context() -> None:
    fit("--trainer.max_steps", "4")
    longer = [
        {"steps": 3, "sequence_length": 16, "batch_size": 2},
        {"steps": 2, "sequence_length": 32, "batch_size": 2, "window_scale": 2.0},
        {"steps": 2, "sequence_length": 64, "batch_size": 1, "window_scale": 4.0},
    ]
    fit("--ckpt_path", "last", "--stages.table", json.dumps(longer))
    content = saved("runs/small/checkpoints/last.ckpt")
    assert content["global_step"] == 7
    assert content["language_model"]["window_scale"] == 4.0
    log = Path("runs/small/metrics.csv").read_text().splitlines()
    column = log[0].split(",").index("train/loss")
    steps = [row.split(",")[0] for row in log[1:] if row.split(",")[column]]
    assert steps == [str(step) for step in range(7)]


def test_a_resume_before_there_is_anything_starts() -> None:
    fit("--ckpt_path", "last")
    assert saved("runs/small/checkpoints/last.ckpt")["global_step"] == 5


def test_generate_continues_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    words = ["generate", "--ckpt_path", "runs/small/checkpoints/last.ckpt", "--prompt", "the "]
    capsys.readouterr()
    run(*words, "--max-new", "12", "--seed", "1")
    first = capsys.readouterr().out
    run(*words, "--max-new", "12", "--seed", "1")
    assert capsys.readouterr().out == first
    assert first.startswith("the ")
    assert len(first) > 8


def test_predict_writes_text(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    few = ["--trainer.limit_predict_batches", "2", "--model.max_new", "5"]
    run("predict", "--config", "runs/small/config.yaml", "--ckpt_path", "best", *few)
    lines = Path("runs/small/predictions.jsonl").read_text().splitlines()
    # Two batches of two rows; 32 bytes of the test part and 5 new ones.
    texts = [json.loads(line)["text"] for line in lines]
    assert len(texts) == 4
    assert all(text[:32] in TEXT for text in texts)
    assert "Predictions: runs/small/predictions.jsonl" in capsys.readouterr().out


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Runs what must fail, and returns the exit status and the one line of the error."""
    capsys.readouterr()
    status = main([*words])
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("sparse-patterns: error: ")]
    assert lines == errors
    assert len(errors) == 1
    return status, errors[0].removeprefix("sparse-patterns: error: ")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["ft"], 2, "unknown command 'ft'. Did you mean 'fit'?"),
        (["fit"], 2, "data"),
        (["fit", "--config", "none.yaml"], 2, "none.yaml"),
        (["fit", "--config", "broken.yaml"], 2, "broken.yaml"),
        (["fit", "--import", "no_such_module"], 2, "no_such_module"),
        (["generate", "--ckpt_path", "none.ckpt"], 2, "--ckpt_path none.ckpt: no such file"),
        (["generate", "--ckpt_path", "text.txt"], 1, "text.txt is no checkpoint"),
        (["generate"], 2, "--ckpt_path"),
        (["patterns", "show", "longfrmer"], 2, "Did you mean 'longformer'"),
        (["patterns", "show", "mistral", "windw=3"], 2, "Did you mean 'window'?"),
        (["patterns", "show", "{window: {left: 3}"], 2, "can be read as YAML or JSON"),
        (["patterns", "show", "{full: {}}", "a=3"], 2, "goes with a name, not with a whole"),
        (["patterns", "show", "{window: 4}"], 2, "window must be a mapping of fields, got 4"),
        (["patterns", "draw", "full", "--output", "x.xyz"], 2, "--output must end in one of"),
        (["patterns", "explain", "full", "--ranks", "0"], 1, "ranks must be"),
        (["patterns", "show", "mistral", "window"], 2, "expected FIELD=VALUE, got 'window'"),
        (["data", "describe", "tex8"], 2, "Did you mean 'text8'?"),
    ],
)
def test_errors_of_a_command_are_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], status: int, message: str
) -> None:
    Path("broken.yaml").write_text("data: [")
    seen = error_of(capsys, *words)
    assert seen[0] == status
    assert message in seen[1]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--data", "text-fils"], 2, "unknown data set 'text-fils'. Did you mean 'text-files'?"),
        (["--data.files", "none.txt"], 2, "files: 'none.txt' names no file"),
        (["--data.files", "empty.txt"], 1, "empty.txt is empty"),
        (["--data.sequence_length", "9999"], 1, "sequence_length 9999 is longer than the data"),
        (["--data.sequence_lenght", "8"], 2, "Did you mean 'sequence_length'?"),
        (["--data.tokenizer", "none.json"], 1, "there is no file 'none.json'"),
        (["--model.pattern", "longfrmer"], 2, "Did you mean 'longformer'"),
        (["--model.pattern", '{"windw": {"before": 3}}'], 1, "Did you mean 'window'?"),
        (["--model.width", "7"], 1, "width must be a multiple of heads (2), got 7"),
        (["--model.width", "wide"], 2, "width"),
        (["--trainer.max_step", "3"], 2, "--trainer.max_step"),
        (["--stages.doubling.stages", "2"], 2, "doubling"),
        (["--ckpt_path", "none.ckpt"], 2, "--ckpt_path none.ckpt: no such file"),
        (["--run.save_every", "0"], 1, "run save_every must be >= 1, got 0"),
        (["--trainer.strategy", "context-paralel"], 2, "Did you mean 'context-parallel'"),
    ],
)
def test_errors_of_a_run_are_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], status: int, message: str
) -> None:
    Path("empty.txt").touch()
    seen = error_of(capsys, "fit", "--config", "small.yaml", *words)
    assert seen[0] == status
    assert message in seen[1]
    # How long the data is shows when batches are asked for, and then the run has begun.
    assert not Path("runs").exists() or "longer than the data" in message


@pytest.mark.filterwarnings("ignore:.*the official text8 100,000,000.*")
def test_a_byte_outside_the_vocabulary_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    official = ["--data", "text8", "--data.path", "text.txt", "--data.split", "proportional"]
    status, message = error_of(capsys, "fit", *official)
    assert status == 1
    assert "the byte b',' at offset" in message


def test_a_checkpoint_of_another_architecture_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fit()
    for words in (["--model.width", "12"], ["--model.layers", "2"]):
        seen = error_of(*(capsys, "fit", "--config", "small.yaml", "--ckpt_path", "last"), *words)
        assert seen[0] == 1
        assert "the checkpoint is of another architecture" in seen[1]


def test_a_full_disk_is_one_line_and_the_last_checkpoint_survives(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit("--trainer.max_steps", "2")
    good = {file: file.read_bytes() for file in Path("runs/small/checkpoints").iterdir()}

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    status, message = error_of(
        capsys, "fit", "--config", "small.yaml", "--ckpt_path", "last", "--run.save_every", "1"
    )
    assert status == 1
    assert "last.ckpt: No space left on device" in message
    assert {file: file.read_bytes() for file in Path("runs/small/checkpoints").iterdir()} == good


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(UsageError):
        main(["generate", "--ckpt_path", "none.ckpt", "--debug"])


def test_patterns_are_listed_shown_explained_and_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run("patterns", "list")
    assert "longformer-causal" in capsys.readouterr().out
    run("patterns", "describe", "mistral")
    assert "window" in capsys.readouterr().out
    run("patterns", "show", "mistral", "window=3", "--length", "8")
    by_name = capsys.readouterr().out.splitlines()
    assert len(by_name) >= 8
    run("patterns", "show", "{window: {before: 2}}", "--length", "8")
    assert capsys.readouterr().out.splitlines()[1:] == by_name[1:]
    run("patterns", "explain", "patterns/window-and-sinks")
    assert "dense" in capsys.readouterr().out
    monkeypatch.setenv("SPARSE_PATTERNS_CACHE", str(tmp_path))
    words = ("--length", "64", "--heads", "2", "--head-dim", "8", "--training", "--kernel", "tune")
    run("patterns", "explain", "mistral", *words)
    assert "ms forward and backward" in capsys.readouterr().out
    run("patterns", "draw", "streaming", "--length", "64", "--layers", "2", "--output", "p.png")
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_help_and_patterns_do_not_wait_for_lightning() -> None:
    script = (
        "import sys; from lit_modules.cli import main; main({words!r}); "
        "print([m for m in sys.modules if m in {heavy!r}])"
    )
    for words, heavy in (
        (["--help"], ["torch", "lightning"]),
        (["patterns", "list"], ["lightning"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script.format(words=words, heavy=heavy)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "[]"


def test_a_run_of_version_0_1_is_read_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Its configuration and its checkpoints name the data set by where its class was then."""
    run("fit", "--config", "small.yaml", "--run.name", "old")
    config = Path("runs/old/config.yaml")
    text = config.read_text()
    now, then = (
        "datamodules.language_model.text_files.TextFiles",
        "datamodules.text_files.TextFiles",
    )
    assert now in text
    config.write_text(text.replace(now, then))
    checkpoint = Path("runs/old/checkpoints/last.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    assert content["sparse_patterns_data"]["class_path"] == now
    content["sparse_patterns_data"]["class_path"] = then
    torch.save(content, checkpoint)
    capsys.readouterr()
    run("generate", "--ckpt_path", str(checkpoint), "--prompt", "the ", "--max-new", "4")
    assert capsys.readouterr().out.startswith("the ")
    run("fit", "--config", str(config), "--run.name", "new", "--ckpt_path", str(checkpoint))
    assert now in Path("runs/new/config.yaml").read_text()
