"""The names that are read off the source are those that an import registers."""

import sys
from importlib import metadata

import pytest

import datamodules.registry
from lit_modules.commands.early.registered import DATA_SETS, PATTERNS, Names
from lit_modules.commands.errors import UsageError
from sparse_patterns.spec import presets

BOTH = pytest.mark.parametrize(
    ("names", "registry"),
    [(DATA_SETS, datamodules.registry.registry), (PATTERNS, presets.REGISTRY)],
    ids=["data sets", "patterns"],
)


@pytest.fixture
def _not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in (DATA_SETS, PATTERNS):
        monkeypatch.delitem(sys.modules, names.module)


@BOTH
@pytest.mark.usefixtures("_not_imported")
def test_names_and_paths_are_those_of_the_registry(names: Names, registry: object) -> None:
    assert names.imported is None
    expected = {name: registry.describe(name) for name in registry.names()}  # type: ignore[attr-defined]
    assert names.paths() == {name: record.path for name, record in expected.items()}
    assert names.summaries() == {name: record.summary for name, record in expected.items()}
    assert names.complete


@BOTH
@pytest.mark.usefixtures("_not_imported")
@pytest.mark.parametrize("wrong", ["longformr", "tex8", "nothing-like-it"])
def test_a_wrong_name_is_refused_in_the_same_words(
    names: Names, registry: object, wrong: str
) -> None:
    with pytest.raises(UsageError, match="unknown") as early:
        names.check(wrong)
    with pytest.raises(ValueError, match="unknown") as late:
        registry.describe(wrong)  # type: ignore[attr-defined]
    assert str(early.value) == str(late.value)


@pytest.mark.usefixtures("_not_imported")
def test_a_wrong_field_is_refused_in_the_same_words() -> None:
    with pytest.raises(UsageError, match="no field 'windw'") as early:
        PATTERNS.check_fields("mistral", ["windw"])
    with pytest.raises(ValueError, match="no field 'windw'") as late:
        presets.REGISTRY.get("mistral", windw=3)
    assert str(early.value) == str(late.value)
    PATTERNS.check_fields("mistral", ["window"])


@pytest.mark.usefixtures("_not_imported")
def test_words_of_the_codec_stand_for_patterns() -> None:
    for word in ("causal", "full", "bigbird"):
        PATTERNS.check(word)


def test_what_is_registered_at_run_time_is_known() -> None:
    @datamodules.register("made-just-now")
    class Made(datamodules.Recall):
        """Made just now."""

    DATA_SETS.check("made-just-now")
    assert (DATA_SETS.summaries() or {})["made-just-now"] == "Made just now."


@pytest.mark.usefixtures("_not_imported")
@pytest.mark.parametrize(("value", "complete"), [("theirs:Data", True), ("theirs.all", False)])
def test_names_of_other_packages(
    value: str, complete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = metadata.EntryPoint("their-data", value, DATA_SETS.entry_points)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry])
    names = Names(
        *("data set", DATA_SETS.module, "registry", "datamodules", DATA_SETS.entry_points)
    )
    assert names.complete is complete
    names.check("their-data")
    if complete:
        with pytest.raises(UsageError, match="unknown data set 'no-such-data'"):
            names.check("no-such-data")
    else:
        names.check("no-such-data")  # their module may register any name
