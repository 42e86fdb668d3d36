"""The layout: short listings, small folders, and imports that run one way.

Every rule is held against the source, and is shown to fail on a small tree that breaks it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.children import run_program
from tests.contracts import layout
from tests.contracts.imports import ROOT, read_sources

OURS = ("sparse_patterns", "lit_modules", "datamodules")
CODE = (*OURS, "benchmarks", "evidence", "tests", "docs")

MOST_ENTRIES = {"sparse_patterns": 12, "datamodules": 10, "lit_modules": 20}
MOST_FILES = 15

# What each room of `sparse_patterns` may import; what is not a key here is no room.
HELPERS = ("registry",)
CORE = ("spec", *HELPERS)
RUN = ("config", "lowering", "kernels", *CORE)
BELOW = {
    "registry": (),
    "spec": HELPERS,
    "config": CORE,
    "lowering": CORE,
    "kernels": ("config", "lowering", *CORE),
    "functional": RUN,
    "distributed": ("functional", *RUN),
    "nn": ("distributed", "functional", *RUN),
    "huggingface": ("nn", "functional", *RUN),
    "viz": ("kernels", "lowering", *CORE),
}
# Pictures are drawn on demand: a method may import them when it is called, from anywhere.
BESIDE = ("viz",)
BESIDE_MODULES = ("sparse_patterns.viz",)
DRAW = ("sparse_patterns/__init__.py", "lit_modules/callbacks/")


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return read_sources(ROOT, *CODE)


def tree(root: Path, **files: str) -> dict[str, str]:
    """Write a package `p` of files, `a__b` for `a/b.py`, and return its sources."""
    for name, text in {"__init__": "", **files}.items():
        path = root / "p" / f"{name.replace('__', '/') if name != '__init__' else name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read_sources(root, "p")


class TestSizes:
    @pytest.mark.parametrize("package", OURS)
    def test_a_listing_is_short(self, package: str) -> None:
        shown = layout.entries(ROOT / package)
        assert "__init__.py" in shown
        assert len(shown) <= MOST_ENTRIES[package], shown

    def test_what_a_listing_shows_is_counted(self, tmp_path: Path) -> None:
        tree(tmp_path, a="", sub__b="")
        (tmp_path / "p" / "__pycache__").mkdir()
        (tmp_path / "p" / ".hidden").touch()
        (tmp_path / "p" / "py.typed").touch()
        assert layout.entries(tmp_path / "p") == ["__init__.py", "a.py", "py.typed", "sub"]

    def test_folders_are_small(self, sources: dict[str, str]) -> None:
        assert layout.crowded(sources, MOST_FILES) == []

    def test_a_large_folder_is_found(self, tmp_path: Path) -> None:
        files = tree(tmp_path, **{f"sub__m{n}": "" for n in range(MOST_FILES + 1)})
        assert layout.crowded(files, MOST_FILES) == ["p/sub: 16 Python files"]
        assert layout.crowded(files, MOST_FILES + 1) == []


class TestCircles:
    def test_none_between_files(self, sources: dict[str, str]) -> None:
        assert layout.file_circles(sources, BESIDE_MODULES) == []

    @pytest.mark.slow
    def test_none_between_rooms(self, sources: dict[str, str]) -> None:
        assert layout.room_circles(sources, BESIDE_MODULES) == []

    @pytest.mark.parametrize(
        "back",
        [
            "import p.a",
            "from p.a import f",
            "from .a import f",
            "from . import a",
            "def g():\n    import p.a",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import T",
        ],
    )
    def test_a_circle_of_files_is_found(self, tmp_path: Path, back: str) -> None:
        files = tree(tmp_path, a="from p import b", b="import p.c", c=back)
        assert layout.file_circles(files) == ["p/a.py, p/b.py, p/c.py"]
        assert len(layout.room_circles(files)) == 1

    def test_importing_the_package_itself_is_a_circle(self, tmp_path: Path) -> None:
        files = tree(tmp_path, a="def f():\n    from p import g")
        (tmp_path / "p" / "__init__.py").write_text("from p.a import f\n")
        files = read_sources(tmp_path, "p")
        assert layout.file_circles(files) == ["p/__init__.py, p/a.py"]

    def test_a_circle_of_rooms_without_one_of_files_is_found(self, tmp_path: Path) -> None:
        files = tree(tmp_path, x__one="import p.y.one", y__one="", y__two="import p.x.two")
        files["p/x/two.py"] = ""
        assert layout.file_circles(files) == []
        (found,) = layout.room_circles(files)
        assert found.startswith("p/x, p/y: ")
        assert "p/y/two.py:1 imports p.x.two" in found

    def test_a_circle_of_rooms_within_a_room_is_found(self, tmp_path: Path) -> None:
        files = tree(
            tmp_path,
            r__x__one="import p.r.m",
            r__m="import p.r.x.two",
            r__x__two="",
            s="import p.r",
        )
        (found,) = layout.room_circles(files)
        assert found.startswith("p/r/m.py, p/r/x: ")

    def test_a_deferred_import_of_what_is_beside_is_none(self, tmp_path: Path) -> None:
        files = tree(tmp_path, a="def f():\n    import p.draw", draw="import p.a")
        assert layout.file_circles(files, ["p.draw"]) == []
        assert layout.file_circles(files) != []
        files["p/a.py"] = "import p.draw"
        assert layout.file_circles(files, ["p.draw"]) == ["p/a.py, p/draw.py"]

    def test_what_runs_one_way_passes(self, tmp_path: Path) -> None:
        files = tree(tmp_path, a="import p.b, p.c, os", b="import p.c", c="import torch")
        assert layout.file_circles(files) == []
        assert layout.room_circles(files) == []


class TestDirections:
    def test_the_rooms_run_one_way(self, sources: dict[str, str]) -> None:
        assert layout.against_direction(sources, "sparse_patterns", BELOW, BESIDE) == []

    def test_every_room_is_in_the_table(self) -> None:
        shown = {name.removesuffix(".py") for name in layout.entries(ROOT / "sparse_patterns")}
        assert shown - {"__init__", "py.typed"} - set(BELOW) == set()

    def test_pictures_are_imported_by_few(self, sources: dict[str, str]) -> None:
        ours = {file: text for file, text in sources.items() if file.startswith(OURS)}
        assert layout.importers(ours, "sparse_patterns.viz", DRAW) == []

    @pytest.mark.parametrize(
        ("room", "line", "allowed"),
        [
            ("spec/base", "from sparse_patterns.config import codec", "registry only"),
            ("spec/base", "def f():\n    from ..kernels import base", "registry only"),
            ("config/codec", "import sparse_patterns.lowering.plan", "spec, registry only"),
            ("lowering/plan", "import sparse_patterns.kernels.base", "spec, registry only"),
            ("kernels/base", "import sparse_patterns.functional", "config, lowering"),
            ("functional", "import sparse_patterns.nn.sparsify", "config, lowering"),
            ("nn/sparsify", "import sparse_patterns.huggingface", "distributed, functional"),
            ("huggingface/attach", "from sparse_patterns.viz import text", "nn, functional"),
            ("registry", "import sparse_patterns.spec.base", "nothing"),
            ("viz/text", "import sparse_patterns.nn.kv_cache", "kernels, lowering"),
            ("kernels/base", "import sparse_patterns.viz.text", "config, lowering"),
            ("nn/sparsify", "import sparse_patterns", "distributed, functional"),
        ],
    )
    def test_an_import_against_them_is_found(self, room: str, line: str, allowed: str) -> None:
        rooms = [
            "__init__",
            "registry",
            "functional",
            *("spec/base", "config/codec", "lowering/plan", "kernels/base", "nn/sparsify"),
            *("nn/kv_cache", "huggingface/__init__", "huggingface/attach", "viz/text"),
            *("kernels/__init__", "config/__init__", "nn/__init__", "spec/__init__"),
        ]
        files = {f"sparse_patterns/{name}.py": "" for name in rooms}
        assert layout.against_direction(files, "sparse_patterns", BELOW, BESIDE) == []
        files[f"sparse_patterns/{room}.py"] = line
        (found,) = layout.against_direction(files, "sparse_patterns", BELOW, BESIDE)
        assert found.startswith(f"sparse_patterns/{room}.py:")
        assert f"may import {allowed}" in found

    def test_a_room_outside_the_table_is_found(self) -> None:
        files = {"p/new.py": "import p.spec", "p/spec.py": ""}
        (found,) = layout.against_direction(files, "p", {"spec": ()})
        assert "new is no room" in found

    def test_an_importer_of_pictures_is_found(self) -> None:
        files = {
            "p/viz/a.py": "import p.viz.b",
            "p/__init__.py": "from p.viz.a import draw",
            "p/c.py": "def f():\n    from p.viz.a import draw",
        }
        assert layout.importers(files, "p.viz", ["p/__init__.py"]) == []
        files["p/d.py"] = "from p.viz.a import draw"
        (found,) = layout.importers(files, "p.viz", ["p/__init__.py"])
        assert found == "p/d.py:1 imports p.viz.a.draw"


class TestNames:
    @pytest.mark.slow
    def test_nothing_hides_a_module(self, tmp_path: Path) -> None:
        """In a process of its own: tests leave modules behind, and put others in their place."""
        program = tmp_path / "import_all.py"
        program.write_text(
            "from tests.contracts import layout\n"
            f"packages = {OURS}\n"
            "found = layout.hidden_modules(layout.import_all(*packages), packages)\n"
            "assert not found, found\n"
        )
        run_program(program)

    def test_a_hidden_module_is_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tree(tmp_path, plan="def plan(): ...", other="")
        (tmp_path / "p").rename(tmp_path / "hides_a_module")
        monkeypatch.syspath_prepend(tmp_path)
        package = tmp_path / "hides_a_module" / "__init__.py"
        package.write_text("from hides_a_module.plan import plan\n")
        try:
            modules = layout.import_all("hides_a_module")
            found = layout.hidden_modules(modules, ["hides_a_module"])
        finally:
            for name in [n for n in sys.modules if n.split(".")[0] == "hides_a_module"]:
                del sys.modules[name]
        assert found == ["hides_a_module.plan is hidden by function hides_a_module.plan"]
