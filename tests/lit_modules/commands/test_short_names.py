"""Short names are written out, and everything else is left as it is."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_modules.commands.short_names import MODELS, expand, expand_words
from sparse_patterns.registry import Registry

DATA: Registry[SimpleNamespace] = Registry("data set", "sparse_patterns.no_such_group")


@DATA.register("my-text")
class MyText(SimpleNamespace):
    """Text of my own."""


PATH = DATA.describe("my-text").path


def test_a_name_becomes_a_class() -> None:
    assert expand({"data": "my-text", "seed": 3}, DATA) == {"data": {"class_path": PATH}, "seed": 3}


def test_fields_beside_a_name_become_its_arguments() -> None:
    written = expand({"data": {"name": "my-text", "length": 8}, "model": {"width": 4}}, DATA)
    assert written["data"] == {"class_path": PATH, "init_args": {"length": 8}}
    assert written["model"] == {"init_args": {"width": 4}}


def test_the_long_form_passes_and_may_hold_a_short_name() -> None:
    long = {"class_path": "a.B", "init_args": {"length": 8}}
    assert expand({"data": long, "model": long}, DATA) == {"data": long, "model": long}
    assert expand({"model": {"class_path": "language-model"}}, DATA) == {
        "model": {"class_path": MODELS["language-model"]}
    }


def test_interpolations_follow_a_field_to_where_it_is_written_out() -> None:
    config = {"stages": {"table": ["${data.length}", "${data.init_args.length}", "${seed}"]}}
    assert expand(config, DATA)["stages"]["table"] == [
        "${data.init_args.length}",
        "${data.init_args.length}",
        "${seed}",
    ]


def test_words_of_the_command_line_are_written_out() -> None:
    words = ["--data", "my-text", "--data.length=3", "--model=language-model", "--x", "my-text"]
    assert expand_words(words, DATA) == [
        *("--data", PATH, "--data.length=3"),
        *(f"--model={MODELS['language-model']}", "--x", "my-text"),
    ]


def test_a_pattern_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("window: {before: 4}\n")
    assert expand_words(["--model.pattern", str(file)], DATA)[1] == '{"window": {"before": 4}}'
    written = expand({"model": {"pattern": str(file)}}, DATA)
    assert written["model"]["init_args"]["pattern"] == {"window": {"before": 4}}
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        expand_words(["--model.pattern", "none.yaml"], DATA)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "my-txt"], "unknown data set 'my-txt'. Did you mean 'my-text'?"),
        (
            ["--model=languge-model"],
            "unknown model 'languge-model'. Did you mean 'language-model'",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        expand_words(words, DATA)
