"""The generic registry: described records, suggestions, and names from other packages."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

from sparse_patterns.registry import REQUIRED, Registry, did_you_mean

GROUP = "sparse_patterns.test_registry"


@pytest.fixture
def registry() -> Registry[object]:
    registry: Registry[object] = Registry("pattern", GROUP)

    @registry.register("soft-window")
    def soft_window(width: int, right: int = 0, *, note: str | None = None) -> object:
        """A window with a name.

        Args:
            width: Keys to the left.
        """
        return ("window", width, right, note)

    @registry.register("bag")
    class Bag:
        """A class works too."""

        def __init__(self, size: float = 1.5) -> None:
            self.size = size

    return registry


def install(folder: Path, package: str, source: str, entry_points: str) -> None:
    """Write a package the way pip leaves it: a module and a dist-info folder."""
    (folder / f"{package}.py").write_text(textwrap.dedent(source))
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_points}\n")


def test_get_builds_with_defaults_and_given_fields(registry: Registry[object]) -> None:
    assert registry.get("soft-window", width=3) == ("window", 3, 0, None)
    assert registry.get("soft-window", width=3, note="x", right=1) == ("window", 3, 1, "x")
    assert registry.get("bag", size=2.0).size == 2.0  # type: ignore[attr-defined]


def test_names_are_sorted_and_membership_works(registry: Registry[object]) -> None:
    assert registry.names() == ("bag", "soft-window")
    assert "bag" in registry
    assert "bags" not in registry


def test_describe_keeps_fields_doc_and_place(registry: Registry[object]) -> None:
    record = registry.describe("soft-window")
    assert record.summary == "A window with a name."
    assert "width: Keys to the left." in record.doc
    assert [f.name for f in record.fields] == ["width", "right", "note"]
    assert [f.default for f in record.fields] == [REQUIRED, 0, None]
    assert [f.type for f in record.fields] == ["int", "int", "str | None"]
    assert "test_registry.py:" in record.defined_in


def test_description_prints_for_people(registry: Registry[object]) -> None:
    text = str(registry.describe("soft-window"))
    assert text.startswith("pattern soft-window\n\n  A window with a name.\n")
    assert "\n  width: int (required)\n  right: int = 0\n" in text
    assert "defined in " in text


def test_unknown_name_suggests_and_lists(registry: Registry[object]) -> None:
    with pytest.raises(
        ValueError,
        match=r"pattern 'Soft_windw'\. Did you mean 'soft-window'\? Known: bag, soft-window",
    ):
        registry.get("Soft_windw")
    with pytest.raises(ValueError, match=r"unknown pattern 'qqqq'\. Known: bag"):
        registry.describe("qqqq")
    with pytest.raises(TypeError, match="pattern name must be a string, got 3"):
        registry.describe(3)  # type: ignore[arg-type]


def test_unknown_field_names_the_allowed_ones(registry: Registry[object]) -> None:
    with pytest.raises(
        ValueError,
        match=r"'soft-window' has no field 'widht'\. Did you mean 'width'\? Allowed: width, right",
    ):
        registry.get("soft-window", widht=3)


def test_missing_field_is_named(registry: Registry[object]) -> None:
    with pytest.raises(ValueError, match=r"'soft-window' needs 'width'; .*right: int = 0"):
        registry.get("soft-window", right=3)


def test_a_field_may_be_called_name() -> None:
    registry: Registry[str] = Registry("pattern", GROUP)

    @registry.register("rule")
    def rule(name: str) -> str:
        """A rule."""
        return name

    assert registry.get("rule", name="mine") == "mine"


def test_open_factories_take_any_field() -> None:
    registry: Registry[dict[str, int]] = Registry("pattern", GROUP)

    @registry.register("open")
    def build(first: int = 1, **rest: int) -> dict[str, int]:
        """Takes anything."""
        return {"first": first, **rest}

    assert registry.get("open", other=2) == {"first": 1, "other": 2}


def test_fields_of_a_class_include_those_its_base_takes() -> None:
    registry: Registry[object] = Registry("pattern", GROUP)

    class Base:
        def __init__(self, seed: int = 3, size: int = 1) -> None:
            self.seed = seed

    @registry.register("derived")
    class Derived(Base):
        """Hands on what it does not know."""

        def __init__(self, path: str, size: int = 2, **kwargs: int) -> None:
            super().__init__(size=size, **kwargs)

    fields = registry.describe("derived").fields
    assert [(f.name, f.default) for f in fields] == [("path", REQUIRED), ("size", 2), ("seed", 3)]
    assert registry.get("derived", path="p", seed=5).seed == 5  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no field 'sed'"):
        registry.get("derived", path="p", sed=5)


def test_a_name_is_a_string(registry: Registry[object]) -> None:
    with pytest.raises(TypeError, match="name must be a string, got 5"):
        registry.register(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Window", "two words", "under_score", "", "-a", "a--b", "8x"])
def test_malformed_names_are_refused(registry: Registry[object], name: str) -> None:
    with pytest.raises(ValueError, match="lower-case words joined by hyphens"):
        registry.register(name)


def test_duplicates_are_refused_and_the_first_stays(registry: Registry[object]) -> None:
    def other() -> None:
        """Another."""

    with pytest.raises(ValueError, match=r"name 'bag' is already taken by .*Bag.*; choose another"):
        registry.register("bag")(other)
    assert registry.describe("bag").summary == "A class works too."


def test_a_factory_needs_a_docstring_and_named_arguments(registry: Registry[object]) -> None:
    def silent() -> None: ...

    def positional(x: int, /) -> int:
        """Cannot be given by name."""
        return x

    with pytest.raises(ValueError, match="needs a docstring"):
        registry.register("silent")(silent)
    with pytest.raises(ValueError, match="'x' is positional-only"):
        registry.register("positional")(positional)
    assert "silent" not in registry


def test_reload_of_the_defining_module_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reloaded_patterns.py").write_text(
        textwrap.dedent(f"""
            from sparse_patterns.registry import Registry
            registry = globals().get("registry") or Registry("pattern", {GROUP!r})

            @registry.register("one")
            def one():
                '''One.'''
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("reloaded_patterns")
    first = module.one
    importlib.reload(module)
    assert module.one is not first
    assert module.registry.describe("one").factory is module.one


def test_entry_points_of_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path,
        "other_patterns",
        """
        def far(width: int = 7):
            '''A pattern from elsewhere.'''
            return width
        number = 3
        """,
        "far = other_patterns:far\nnumber = other_patterns:number",
    )
    install(tmp_path, "broken_patterns", "import missing_library", "near = broken_patterns:near")
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[int] = Registry("pattern", GROUP)
    assert "other_patterns" not in sys.modules, "entry points must stay unloaded until a look-up"
    with pytest.warns(RuntimeWarning) as caught:
        assert registry.get("far", width=9) == 9
    messages = sorted(str(w.message) for w in caught)
    assert len(messages) == 2
    assert "'near' of package 'broken_patterns' is left out" in messages[0]
    assert "ModuleNotFoundError: No module named 'missing_library'" in messages[0]
    assert "'number' of package 'other_patterns' is left out" in messages[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.names() == ("far",)


def test_an_entry_point_may_be_a_module_that_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared_registry.py").write_text(
        "from sparse_patterns.registry import Registry\n"
        f"registry = Registry('pattern', {GROUP!r})\n"
    )
    install(
        tmp_path,
        "module_patterns",
        """
        from shared_registry import registry

        @registry.register("from-module")
        def from_module():
            '''Registered by an import.'''
            return "built"
        """,
        "anything = module_patterns",
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = importlib.import_module("shared_registry").registry
    assert registry.get("from-module") == "built"
    assert registry.names() == ("from-module",)


def test_did_you_mean_is_silent_without_a_near_word() -> None:
    assert did_you_mean("zzz", ["window"]) == ""
    assert did_you_mean("windows", ["window", "widow"]) == " Did you mean 'window' or 'widow'?"


def test_registry_itself_imports_no_torch() -> None:
    source = importlib.import_module("sparse_patterns.registry").__file__
    code = (
        "import importlib.util, sys;"
        f"spec = importlib.util.spec_from_file_location('registry', {source!r});"
        "module = importlib.util.module_from_spec(spec); sys.modules['registry'] = module;"
        "spec.loader.exec_module(module); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_registered_inside_restored_is_forgotten(registry: Registry[object]) -> None:
    def short_lived() -> int:
        """For the time of a test."""
        return 3

    def fails_inside() -> None:
        with registry.restored():
            registry.register("short-lived")(short_lived)
            assert registry.get("short-lived") == 3
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fails_inside()
    assert registry.names() == ("bag", "soft-window")


def test_a_saved_import_path_is_followed_to_where_the_factory_is(
    registry: Registry[object],
) -> None:
    bag = registry.describe("bag")
    package = bag.path.partition(".")[0]
    name = bag.path.rpartition(".")[2]
    assert registry.path_of("bag") == bag.path
    # The module of a test is in no package: only what is gone and of the same package is followed.
    assert registry.path_of(f"{package}.gone.{name}") == bag.path
    assert registry.path_of(f"other.gone.{name}") == f"other.gone.{name}"
    assert registry.path_of(f"{package}.gone.Other") == f"{package}.gone.Other"
    assert registry.path_of(f"json.{name}") == f"json.{name}"
    with pytest.raises(ValueError, match=r"unknown pattern 'bog'\. Did you mean 'bag'"):
        registry.path_of("bog")
