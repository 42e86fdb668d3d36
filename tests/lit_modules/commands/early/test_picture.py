"""The picture of a command line: files laid over one another, and words over files."""

from pathlib import Path

import pytest

from lit_modules.commands.early.picture import Picture, options, parse_config
from lit_modules.commands.errors import UsageError


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text(
        "data: {name: recall, distance: 8}\nmodel: {width: 4}\nckpt_path: last\nstages: null\n"
    )
    Path("two.yaml").write_text(
        "data:\n  class_path: mine.Data\n  init_args: {a: 1}\n  dict_kwargs: {b: 2}\n"
        "trainer: {max_steps: 3}\n"
    )


def values(picture: Picture, part: str) -> dict[str, object]:
    return {name: given.value for name, given in picture.fields[part].items()}


def test_words_are_laid_over_files() -> None:
    words = ["--config", "one.yaml", "--data.distance=9", "--model.heads", "2", "--trainer.x.y=[1]"]
    picture = Picture.of(words)
    assert picture.classes["data"] == "datamodules.language_model.recall.Recall"
    assert values(picture, "data") == {"distance": "9"}
    assert values(picture, "model") == {"width": 4, "heads": "2"}
    assert values(picture, "trainer") == {"x.y": [1]}
    assert picture.others["ckpt_path"].value == "last"
    assert values(picture, "stages") == {"table": None, "doubling": None}
    assert picture.fields["data"]["distance"].origin == "--data.distance"
    assert picture.fields["data"]["distance"].by_word
    assert picture.fields["model"]["width"].origin == "--config one.yaml, model.width"


def test_another_class_drops_what_the_one_before_took() -> None:
    picture = Picture.of(["--config", "one.yaml", "--config", "two.yaml"])
    assert picture.classes["data"] == "mine.Data"
    assert values(picture, "data") == {"a": 1}  # what is in dict_kwargs is not checked
    picture = Picture.of(["--config", "two.yaml", "--data", "recall", "--data.init_args.keys", "3"])
    assert values(picture, "data") == {"keys": "3"}


def test_a_part_as_text_is_left_to_the_parser() -> None:
    picture = Picture.of(["--config", "one.yaml", "--data", '{"class_path": "recall"}'])
    assert picture.classes["data"] is None
    assert picture.fields["data"] == {}


def test_a_shipped_configuration_goes_by_its_name() -> None:
    picture = Picture.of(["--config", "tasks/wikihop"])
    assert picture.fields["data"]["path"].origin == "--config tasks/wikihop, data.path"


def test_options_with_and_without_values() -> None:
    words = ["--a", "1", "--b=2", "--c", "--d", "x", "y", "-c", "f"]
    assert list(options(words)) == [
        ("--a", "1"),
        ("--b", "2"),
        ("--c", ""),
        ("--d", "x"),
        ("-c", "f"),
    ]


@pytest.mark.parametrize("content", ["data: [", "- a"])
def test_what_is_no_configuration_is_refused(content: str) -> None:
    with pytest.raises(UsageError, match=r"--config f\.yaml: "):
        parse_config(content, "f.yaml")
