"""What is read off the source is what an import would say."""

import inspect
import sys
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

import datamodules.registry
from lit_modules.callbacks.stages import Stages
from lit_modules.commands.early.source import arguments_of, constant_of, find, source_of, value_of
from lit_modules.commands.run_folder import RunSettings
from lit_modules.commands.short_names import MODELS
from lit_modules.pretrained.backbone import EncoderSettings
from sparse_patterns.registry import Record
from sparse_patterns.spec import presets


def arguments(path: str) -> tuple[str, ...] | None:
    found = find(path)
    assert found is not None, path
    return arguments_of(found)


def imported(path: str) -> type:
    module, _, name = path.rpartition(".")
    __import__(module)
    found: type = getattr(sys.modules[module], name)
    return found


OURS = [
    *(datamodules.registry.path_of(name) for name in datamodules.registry.names()),
    *(presets.REGISTRY.path_of(name) for name in presets.REGISTRY.names()),
    *MODELS.values(),
]


@pytest.mark.parametrize("path", OURS)
def test_arguments_of_ours_are_those_of_the_registry(path: str) -> None:
    fields = Record("class", "x", imported(path)).fields
    assert sorted(arguments(path) or ()) == sorted(field.name for field in fields)


@pytest.mark.parametrize("kind", [Trainer, Stages, RunSettings, EncoderSettings])
def test_arguments_are_those_of_the_signature(kind: type) -> None:
    expected = list(inspect.signature(kind).parameters)
    assert list(arguments(f"{kind.__module__}.{kind.__qualname__}") or ()) == expected


def test_names_that_are_imported_from_elsewhere_are_followed() -> None:
    assert arguments("lightning.pytorch.Trainer") == tuple(inspect.signature(Trainer).parameters)


@pytest.mark.parametrize("path", OURS[: len(datamodules.registry.names())])
def test_an_attribute_is_that_of_the_class_or_its_base(path: str) -> None:
    definition = find(path)
    assert definition is not None
    assert constant_of(definition, "task") == getattr(imported(path), "task", None)


def test_what_cannot_be_read_has_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_readable.py").write_text(
        "from no_such_library import Base\n"
        "class Known:\n    def __init__(self, a, *, b=1): ...\n"
        "class Open:\n    def __init__(self, a, **kwargs): ...\n"
        "class Derived(Base):\n    def __init__(self, a, **kwargs): ...\n"
        "class Deeper(Known):\n    def __init__(self, c, **kwargs): ...\n"
        "made = type('made', (), {})\nNUMBERS = (1, 2)\nCALLED = print()\n"
    )
    (tmp_path / "no_python.py").write_text("class:")
    assert arguments("half_readable.Known") == ("a", "b")
    assert arguments("half_readable.Open") is None
    assert arguments("half_readable.Derived") is None
    assert arguments("half_readable.Deeper") == ("c", "a", "b")
    assert value_of("half_readable", "NUMBERS") == (1, 2)
    assert value_of("half_readable", "CALLED") is None
    for path in ("half_readable.made", "half_readable.Gone", "no_python.A", "no_such.A", "A", ""):
        assert find(path) is None
    assert source_of("half_readable") == tmp_path / "half_readable.py"
    assert source_of("no_such_module_at_all") is None


def test_reading_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "not_to_be_run.py").write_text("class A:\n    def __init__(self, a): ...\nboom")
    assert arguments("not_to_be_run.A") == ("a",)
    assert "not_to_be_run" not in sys.modules
