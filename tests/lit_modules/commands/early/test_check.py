"""A wrong name is answered in one line before torch and Lightning are imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_modules.commands.configs.shipped import names
from lit_modules.commands.early.check import check, check_file
from lit_modules.commands.errors import UsageError

ROOT = Path(__file__).parents[4]
SMALL = {
    "data": {"name": "text-files", "files": "text.txt", "sequence_length": 16},
    "model": {"layers": 1, "heads": 2, "width": 8, "pattern": {"window": {"before": 4}}},
    "trainer": {"max_steps": 3},
}
FIT = ("fit", "--config", "small.yaml")
WRONG = [
    (["ft"], "unknown command 'ft'. Did you mean 'fit'?"),
    (["fit"], "fit needs a data set"),
    (["fit", "--config", "lm/stdlb"], "Did you mean 'lm/stdlib'?"),
    (["fit", "--config", "none.yaml"], "--config none.yaml: there is no such file"),
    (["fit", "--config", "broken.yaml"], "--config broken.yaml"),
    (["fit", "--config", "wrong.yaml"], "--config wrong.yaml, data.sequence_lenght: TextFiles has"),
    (["fit", "--data", "text-fils"], "unknown data set 'text-fils'. Did you mean 'text-files'?"),
    (["fit", "--model", "languge-model"], "Did you mean 'language-model'"),
    ([*FIT, "--model.pattern", "longfrmer"], "unknown pattern 'longfrmer'. Did you mean"),
    ([*FIT, "--model.pattern", '{"name": "mistral", "windw": 3}'], "has no field 'windw'"),
    ([*FIT, "--data.sequence_lenght", "8"], "Did you mean 'sequence_length'?"),
    ([*FIT, "--model.widht=8"], "--model.widht: LanguageModel has no argument 'widht'. Did you"),
    ([*FIT, "--trainer.max_step", "8"], "--trainer.max_step: Trainer has no argument"),
    ([*FIT, "--run.nam", "x"], "Did you mean 'name'?"),
    ([*FIT, "--stages.tabl", "[]"], "Did you mean 'table'?"),
    ([*FIT, "--modle.width", "8"], "--modle.width: no such option. Did you mean 'model'"),
    ([*FIT, "--data.files", "none.txt"], "--data.files: 'none.txt' names no file, folder or glob"),
    ([*FIT, "--data.files", "[text.txt, no*.txt]"], "--data.files: 'no*.txt' names no file"),
    ([*FIT, "--ckpt_path", "none.ckpt"], "--ckpt_path none.ckpt: no such file"),
    (["fit", "--config", "tasks/wikihop"], "tasks/wikihop, data.path: 'data/wikihop' names no"),
    (
        ["test", "--data", "imdb", "--data.train", "text.txt", "--model.encoder.widht", "8"],
        "--model.encoder.widht: the encoder has no argument 'widht'. Did you mean 'width'",
    ),
    (
        ["fit", "--data", "squad", "--data.train", "text.txt", "--model.encoder.path", "none"],
        "--model.encoder.path: 'none' names no file",
    ),
    (["evaluate", "--data", "squd", "--predictions", "text.txt"], "Did you mean 'squad'?"),
    (["evaluate", "--data", "squad"], "evaluate needs --predictions"),
    (["evaluate", "--data", "squad", "--predictions", "none"], "--predictions none: no such file"),
    (["generate", "--ckpt_path", "none.ckpt"], "--ckpt_path none.ckpt: no such file"),
    (["export", "none.ckpt", "out"], "ckpt_path none.ckpt: no such file"),
    (["make-long", "none", "out"], "none: no such file or folder"),
    (["train-tokenizer", "none.txt", "--output", "t.json"], "files: 'none.txt' names no file"),
    (["patterns", "show", "longfrmer"], "unknown pattern 'longfrmer'. Did you mean 'longformer'"),
    (["patterns", "draw", "mistral", "windw=3"], "Did you mean 'window'?"),
    (["patterns", "explain", "none.yaml"], "pattern: 'none.yaml' names no file"),
    (["patterns", "describe", "mistrl"], "Did you mean 'mistral'?"),
    (["data", "describe", "tex8"], "unknown data set 'tex8'. Did you mean 'text8'?"),
    (["configs", "show", "lm/stdlb"], "Did you mean 'lm/stdlib'?"),
]
# What needs no large library to be printed.
LIGHT = [
    ["--help"],
    *([command, "--help"] for command in ("generate", "make-long", "export", "train-tokenizer")),
    *([command, "--help"] for command in ("patterns", "data", "configs")),
    ["patterns", "list"],
    ["data", "list"],
    ["configs", "list"],
]
HEAVY = ("torch", "lightning", "pytorch_lightning", "torchmetrics", "numpy")
# All of them in one process: what a command imports stays for those after it.
SCRIPT = """
import contextlib, io, json, sys
from lit_modules.cli import main
out = []
for words in json.loads(sys.argv[1]):
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
        try:
            status = main(words)
        except SystemExit as done:
            status = done.code
    loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    out.append([status, said.getvalue(), printed.getvalue(), loaded])
print(json.dumps(out))
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("text " * 100)
    Path("broken.yaml").write_text("data: [")
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))
    wrong = {**SMALL, "data": {"name": "text-files", "files": "text.txt", "sequence_lenght": 8}}
    Path("wrong.yaml").write_text(yaml.safe_dump(wrong))


def run_apart(commands: list[list[str]]) -> list[tuple[int, str, str, list[str]]]:
    """Runs commands in a new process; returns status, errors, output and what is imported."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands), json.dumps(HEAVY)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found: list[tuple[int, str, str, list[str]]] = json.loads(done.stdout)
    return found


def test_wrong_names_do_not_wait_for_torch() -> None:
    answers = run_apart([words for words, _ in WRONG])
    for (words, message), (status, said, _, loaded) in zip(WRONG, answers, strict=True):
        assert status == 2, words
        assert loaded == [], words
        lines = said.splitlines()
        assert len(lines) == 1, (words, lines)
        assert message in lines[0], words


def test_help_and_lists_do_not_wait_for_torch() -> None:
    for words, (status, said, printed, loaded) in zip(LIGHT, run_apart(LIGHT), strict=True):
        assert status == 0, words
        assert said == "", words
        assert len(printed.splitlines()) > 2, words
        assert loaded == [], words


def test_lists_are_the_same_once_the_registry_is_imported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lit_modules.cli import main

    for words in (["patterns", "list"], ["data", "list"]):
        [(_, _, apart, _)] = run_apart([words])
        capsys.readouterr()
        assert main(words) == 0
        assert capsys.readouterr().out == apart


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "small.yaml"],
        ["--config", "small.yaml", "--model.pattern", "causal", "--trainer.callbacks+=x.Y"],
        ["--config", "small.yaml", "--model.pattern", "patterns/window-and-sinks"],
        ["--config", "small.yaml", "--ckpt_path", "best", "--print_config"],
        ["--config", "small.yaml", "--model.dict_kwargs.anything", "1"],
        ["--config", "small.yaml", "--data.files", "*.txt", "--data.val_files", "null"],
        ["--config", "small.yaml", "--stages", "null", "--data.init_args.seed=2"],
        ["--config", "small.yaml", "--model", "my_package.MyModel", "--model.encoder.x", "1"],
        ["--data", "my_package.MyData", "--data.path", "none", "--model.width", "8"],
        ["--data", "text-files", "--data.files", "https://example.org/a.txt"],
        ["--help"],
        ["--trainer.help"],
    ],
)
def test_what_is_right_or_not_known_passes(words: list[str]) -> None:
    assert check("fit", words) == words


@pytest.mark.parametrize("name", [name for name in names() if not name.startswith("patterns/")])
def test_every_shipped_configuration_passes_but_for_its_files(name: str) -> None:
    try:
        check("fit", ["--config", name])
    except UsageError as error:
        # The data set of `images/digits` is of a file that the user imports.
        own = "unknown data set 'digits'" if name == "images/digits" else f"--config {name}, "
        assert str(error).startswith(own)  # noqa: PT017


def test_options_of_one_command_are_none_of_another() -> None:
    assert check("test", ["--config", "small.yaml", "--verbose", "false"])
    with pytest.raises(UsageError, match="--verbose: no such option"):
        check("fit", ["--config", "small.yaml", "--verbose", "false"])


def test_files_of_training_take_the_place_of_a_path_that_is_not_there() -> None:
    words = ["--config", "tasks/imdb-tiny", "--data.train", "text.txt"]
    assert check("fit", words) == [*words, "--data.path=null"]
    Path("data/aclImdb").mkdir(parents=True)
    assert check("fit", words) == words
    wrong = ["--config", "tasks/imdb-tiny", "--data.train", "text.txt", "--data.path", "none"]
    with pytest.raises(UsageError, match=r"--data\.path: 'none' names no"):
        check("fit", wrong)


def test_a_path_takes_the_place_of_the_files_of_a_configuration() -> None:
    words = ["--config", "tasks/speeches", "--data.path", "text.txt"]
    assert check("fit", words) == [*words, "--data.train=null"]
    both = [*words, "--data.train", "small.yaml"]
    assert check("fit", both) == both


def test_a_file_that_is_not_there_says_what_to_give() -> None:
    with pytest.raises(UsageError, match=r"looked from .*; give --data\.path"):
        check("fit", ["--config", "tasks/imdb-tiny"])
    for fine in ("text.txt", ".", "*.txt", "~", "s3://x/y", "${model.x}"):
        check_file(fine, "--data.files")
