"""`sparse-patterns configs`: every name, one to read, one to change."""

from pathlib import Path

import pytest

from lit_modules.cli import main
from lit_modules.commands.configs.shipped import names, shipped_path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_list_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(names())
    assert main(["configs", "list", "mlm/"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(names("mlm/"))


def test_show_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "show", "lm/stdlib"]) == 0
    assert capsys.readouterr().out == shipped_path("lm/stdlib").read_text()


def test_copy_writes_a_file_and_says_how_to_run_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "copy", "tasks/wikihop", "mine.yaml"]) == 0
    assert Path("mine.yaml").read_text() == shipped_path("tasks/wikihop").read_text()
    assert "sparse-patterns fit --config mine.yaml" in capsys.readouterr().out
    assert main(["configs", "copy", "patterns/growing-windows", "p.yaml"]) == 0
    assert "--model.pattern p.yaml" in capsys.readouterr().out
    Path("folder").mkdir()
    assert main(["configs", "copy", "mlm/tiny", "folder"]) == 0
    assert Path("folder/tiny.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "lm/stdlb"], "Did you mean 'lm/stdlib'?"),
        (["copy", "stdlib", "new.yaml"], "Did you mean 'lm/stdlib'?"),
        (["copy", "lm/stdlib", "there.yaml"], "there.yaml exists"),
        (["copy", "lm/stdlib", "none/new.yaml"], "there is no folder none"),
        (["list", "task/"], "the folders are images/, lm/, mlm/, patterns/, tasks/"),
        ([], "see sparse-patterns configs --help"),
    ],
)
def test_a_wrong_word_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.yaml").write_text("mine")
    assert main(["configs", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert Path("there.yaml").read_text() == "mine"
