"""`sparse-patterns data prepare` says what there is, and what was cut, whenever it is asked."""

from pathlib import Path

import pytest

from lit_modules.cli import main
from tests.lit_modules.task_files import files_of


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files_of("imdb", Path("files"))


FIELDS = ["max_length=16", "cache_dir=cache", "path=files/imdb"]
PRINTED = [
    "Imdb train: 8 records, 8 examples",
    "Imdb val: 4 records, 4 examples",
    "Imdb test: 4 records, 4 examples",
]


@pytest.mark.parametrize("name", ["imdb", "tasks/imdb-tiny", "own.yaml", "saved.yaml"])
def test_counts_each_time(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text("data: imdb\n")
    Path("saved.yaml").write_text(
        "data:\n  class_path: datamodules.tasks.classification.imdb.Imdb\n"
        "  init_args: {tokenizer: '${model.tokens}'}\nmodel: {tokens: words}\n"
    )
    for _ in range(2):
        capsys.readouterr()
        assert main(["data", "prepare", name, *FIELDS]) == 0
        printed = capsys.readouterr()
        assert printed.out.splitlines() == PRINTED
        assert [line.partition(" (")[0] for line in printed.err.splitlines()] == [
            f"Imdb {split}: {n} of {n}: text cut to max_length 16 tokens"
            for split, n in (("train", 8), ("val", 4), ("test", 4))
        ]


def test_a_data_set_without_records_is_prepared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", "recall", "distance=8"]) == 0
    assert capsys.readouterr().out == "recall is prepared\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["imdbb"], "unknown data set 'imdbb'. Did you mean 'imdb'?"),
        (["imdb", "pth=x"], "data set 'imdb' has no field 'pth'. Did you mean 'path'?"),
        (["tasks/imdb-tny"], "Did you mean 'tasks/imdb-tiny'"),
        (["no.yaml"], "no.yaml: there is no such file"),
        (["empty.yaml"], "empty.yaml names no data set"),
        (["theirs.yaml"], "their.Data has no name; prepare it by `fit`"),
        (["imdb", "path"], "expected FIELD=VALUE, got 'path'"),
    ],
)
def test_a_wrong_word_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.yaml").write_text("model: {}\n")
    Path("theirs.yaml").write_text("data: {class_path: their.Data}\n")
    assert main(["data", "prepare", *words]) != 0
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
