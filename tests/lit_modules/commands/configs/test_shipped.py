"""The name of a shipped configuration is found from anywhere, and a path comes before it."""

from pathlib import Path

import pytest

from lit_modules.commands.configs.shipped import (
    config_path,
    names,
    pattern_path,
    shipped_path,
    summary,
)
from lit_modules.commands.errors import UsageError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_names_have_a_folder_and_no_ending() -> None:
    assert {"lm/stdlib", "mlm/tiny", "tasks/wikihop", "patterns/growing-windows"} <= set(names())
    assert all(name.count("/") == 1 and "." not in name for name in names())
    assert list(names()) == sorted(names())
    assert {name.partition("/")[0] for name in names("mlm/")} == {"mlm"}


@pytest.mark.parametrize("name", names())
def test_each_begins_with_a_sentence_on_what_it_is(name: str) -> None:
    assert len(summary(name)) > 20
    assert not summary(name).endswith((".", ":"))


def test_a_sentence_does_not_end_at_an_abbreviation() -> None:
    assert summary("mlm/longformer-base").endswith(
        "RoBERTa-base made long, 65K updates of 2^18 tokens"
    )


def test_the_path_of_a_file_comes_before_a_name() -> None:
    assert config_path("lm/stdlib") == str(shipped_path("lm/stdlib"))
    own = Path("lm/stdlib")
    own.parent.mkdir()
    own.write_text("data: recall")
    assert config_path("lm/stdlib") == "lm/stdlib"


def test_a_folder_of_the_same_name_does_not_hide_a_configuration() -> None:
    Path("lm/stdlib").mkdir(parents=True)
    assert config_path("lm/stdlib") == str(shipped_path("lm/stdlib"))


@pytest.mark.parametrize("given", ['{"data": "recall"}', "data:\n  name: recall\n"])
def test_a_configuration_as_text_is_left_alone(given: str) -> None:
    assert config_path(given) == given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("lm/stdlb", "--config lm/stdlb: there is no such file, .* Did you mean 'lm/stdlib'"),
        ("stdlib", "Did you mean 'lm/stdlib'"),
        ("configs/lm/stdlib.yaml", "Did you mean 'lm/stdlib'"),
        ("mine.yaml", "--config mine.yaml: there is no such file"),
        ("patterns/growing-windows", "give it as --model.pattern patterns/growing-windows"),
        ("folder", "--config folder is a folder"),
    ],
)
def test_what_is_neither_is_refused(given: str, message: str) -> None:
    Path("folder").mkdir()
    with pytest.raises(UsageError, match=message):
        config_path(given)


def test_a_pattern_by_its_shipped_name() -> None:
    name = "patterns/window-and-sinks"
    assert pattern_path(name) == str(shipped_path(name))
    for other in ("mistral", "patterns/mine.yaml", '{"window": {"before": 3}}'):
        assert pattern_path(other) == other
    with pytest.raises(UsageError, match="Did you mean 'patterns/window-and-sinks'"):
        pattern_path("patterns/window-and-sink")
