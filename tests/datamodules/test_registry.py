"""Data sets are found by name, also through the package, and another package can add one."""

import pytest

import datamodules


def test_the_names() -> None:
    expected = {"text8", "enwik8", "text-files", "standard-library", "recall"}
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


@pytest.mark.parametrize("name", ["text8", "enwik8", "text-files", "standard-library", "recall"])
def test_every_field_is_documented_for_the_command_line(name: str) -> None:
    from jsonargparse import ArgumentParser

    record = datamodules.describe(name)
    parser = ArgumentParser()
    added = parser.add_class_arguments(record.factory, "data")
    assert {key.removeprefix("data.") for key in added} == {f.name for f in record.fields}
    helps = {action.dest: action.help for action in parser._actions if action.dest in added}
    assert [dest for dest, text in helps.items() if not text] == []
