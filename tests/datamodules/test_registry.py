"""Data sets are found by name, also through the package, and another package can add one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import datamodules
from tests.children import run_program

ROOT = Path(__file__).parents[2]


def test_the_names() -> None:
    expected = {"text8", "enwik8", "text-files", "standard-library", "recall"}
    expected |= {"wikihop", "triviaqa", "squad", "hotpotqa", "far-choice"}
    assert expected <= set(datamodules.names())


def test_get_builds_and_describe_explains() -> None:
    data = datamodules.get("recall", distance=7, seed=3)
    assert isinstance(data, datamodules.Recall)
    assert (data.distance, data.seed) == (7, 3)
    fields = [field.name for field in datamodules.describe("text-files").fields]
    assert fields[0] == "files"
    assert {"sequence_length", "batch_size", "eval_step", "stream", "cache_dir"} <= set(fields)


def test_an_unknown_data_set_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"unknown data set 'enwiki8'\. Did you mean 'enwik8'"):
        datamodules.get("enwiki8")
    with pytest.raises(ValueError, match=r"'enwik8' has no field 'seqence_length'\. Did you mean"):
        datamodules.get("enwik8", seqence_length=3)


@pytest.mark.parametrize("name", [n for n in datamodules.names() if "-of-the-tests" not in n])
def test_every_field_is_documented_for_the_command_line(name: str) -> None:
    from jsonargparse import ArgumentParser

    record = datamodules.describe(name)
    parser = ArgumentParser()
    added = parser.add_class_arguments(record.factory, "data")
    # A class may settle fields of its base, which the command line then does not take.
    settled = {"max_length", "long", "overlap", "max_chunks"} if name == "ontonotes" else set()
    expected = {f.name for f in record.fields} - settled
    assert {key.removeprefix("data.") for key in added} == expected
    helps = {action.dest: action.help for action in parser._actions if action.dest in added}
    assert [dest for dest, text in helps.items() if not text] == []


TASK = '''
import torch
from datamodules import TaskData, global_tokens, register
from datamodules.files.records import Record
from datamodules.tasks.rows import Example


@global_tokens.register("every-token")
def every_token():
    """All tokens."""
    return lambda roles: roles >= 0


@register("mine")
class Mine(TaskData):
    """A task of another package."""

    task = "classification"
    classes = 2
    global_rule = "every-token"

    def read(self, document, split):
        yield Record("one", str(document))

    def encode(self, record, split):
        rows, notes = self.rows(record, self.first(), self.pieces("a b"), self.separator())
        return Example(record.id, rows, {}, notes)

    def labels(self, examples):
        return {"labels": torch.ones(len(examples), dtype=torch.int64)}
'''


USE = """
import datamodules, my_task

(batch,) = datamodules.get("mine", val="a.txt", cache_dir="cache").val_dataloader()
print(batch["ids"], batch["global_mask"].tolist())
"""


def command(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lit_modules.cli", *words],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder / 'installed'}"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_task_of_a_users_script_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text(TASK)
    words = ("data", "describe", "mine", "--import", "my_task")
    shown = run_program(ROOT / "lit_modules" / "cli.py", *words, folder=tmp_path)
    assert "A task of another package." in shown
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "use.py").write_text(USE)
    found = run_program(tmp_path / "use.py", folder=tmp_path)
    assert found.endswith("['one'] [[True, True, True, True]]\n")
    for field in ("path", "tokenizer", "max_length", "global_tokens", "batch_size"):
        assert f"\n  {field}: " in shown


@pytest.mark.slow
@pytest.mark.long
def test_a_task_of_an_installed_package_is_trained_by_its_name(tmp_path: Path) -> None:
    information = tmp_path / "installed" / "theirs-1.0.dist-info"
    information.mkdir(parents=True)
    (information.parent / "their_task.py").write_text(TASK.replace('@register("mine")\n', ""))
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-package\nVersion: 1\n"
    )
    (information / "entry_points.txt").write_text(
        "[sparse_patterns.datamodules]\ntheirs = their_task:Mine\n"
    )
    assert "theirs " in command(tmp_path, "data", "list")
    assert "their_task.Mine" in command(tmp_path, "data", "describe", "theirs")
    files = []
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").write_text(f"text of {split}")
        files.append(f"--data.{split}={split}.txt")
    sizes = ["layers=1", "heads=2", "width=16", "window=4", "max_length=8"]
    shown = command(
        tmp_path,
        *["fit", "--data=theirs", *files, "--data.cache_dir=cache", "--trainer.max_epochs=1"],
        *[f"--model.encoder.{size}" for size in sizes],
        *["--trainer.accelerator=cpu", "--run.name=theirs"],
    )
    assert "test/accuracy" in shown
    assert (tmp_path / "runs" / "theirs" / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize(
    ("before", "name"),
    [
        ("labelled_documents.Documents", "documents"),
        ("enwik8.Enwik8", "enwik8"),
        ("far_choice.FarChoice", "far-choice"),
        ("hotpotqa.HotpotQA", "hotpotqa"),
        ("hyperpartisan.Hyperpartisan", "hyperpartisan"),
        ("imdb.Imdb", "imdb"),
        ("masked_text.MaskedText", "masked-text"),
        ("ontonotes.OntoNotes", "ontonotes"),
        ("recall.Recall", "recall"),
        ("squad.Squad", "squad"),
        ("standard_library.StandardLibrary", "standard-library"),
        ("text_files.TextFiles", "text-files"),
        ("text8.Text8", "text8"),
        ("triviaqa.TriviaQA", "triviaqa"),
        ("wikihop.WikiHop", "wikihop"),
    ],
)
def test_import_paths_of_version_0_1_are_followed(before: str, name: str) -> None:
    assert datamodules.registry.path_of(f"datamodules.{before}") == datamodules.describe(name).path
