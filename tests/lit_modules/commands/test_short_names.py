"""Short names are written out, and everything else is left as it is."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

import datamodules.registry
from lit_modules.commands.errors import UsageError
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


@pytest.mark.parametrize(
    "path",
    [
        *("datamodules.text8.Text8", "datamodules.enwik8.Enwik8", "datamodules.recall.Recall"),
        *("datamodules.standard_library.StandardLibrary", "datamodules.text_files.TextFiles"),
        *("datamodules.masked_text.MaskedText", "datamodules.labelled_documents.Documents"),
        *("datamodules.hyperpartisan.Hyperpartisan", "datamodules.imdb.Imdb"),
        *("datamodules.ontonotes.OntoNotes", "datamodules.far_choice.FarChoice"),
        *("datamodules.hotpotqa.HotpotQA", "datamodules.squad.Squad"),
        *("datamodules.triviaqa.TriviaQA", "datamodules.wikihop.WikiHop"),
    ],
)
def test_data_sets_are_found_by_the_class_paths_of_older_saved_configurations(path: str) -> None:
    module, _, name = path.rpartition(".")
    with pytest.raises(ImportError):
        importlib.import_module(module)
    written = expand({"data": {"class_path": path, "init_args": {"a": 1}}}, datamodules.registry)
    current, _, found = written["data"]["class_path"].rpartition(".")
    assert found == name
    assert isinstance(getattr(importlib.import_module(current), name), type)
    assert written["data"]["init_args"] == {"a": 1}
    assert expand_words([f"--data={path}"], datamodules.registry) == [f"--data={current}.{name}"]


def test_other_class_paths_are_left_as_they_are() -> None:
    for path in ("mine.squad.Squad", "datamodules.mine.Mine", "datamodules.Squad"):
        assert expand({"data": path}, datamodules.registry) == {"data": {"class_path": path}}


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
    with pytest.raises(UsageError, match=r"none\.yaml"):
        expand_words(["--model.pattern", "none.yaml"], DATA)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "my-txt"], "unknown data set 'my-txt'. Did you mean 'my-text'?"),
        (["--model=corefrence"], "unknown model 'corefrence'. Did you mean 'coreference'?"),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        expand_words(words, DATA)
