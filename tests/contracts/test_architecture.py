"""The architecture page is what its script makes of the source as it stands."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "scripts"))

import architecture  # noqa: E402
from drawing import Box, draw, without_circles, without_detours  # noqa: E402
from rooms import derived, read  # noqa: E402


def test_what_is_committed_is_what_the_source_says() -> None:
    written = architecture.written()
    assert written
    other = [path.name for path, text in written.items() if path.read_text("utf-8") != text]
    assert not other, "run `make architecture` and look at it"


def test_the_drawing_has_every_room_once() -> None:
    rooms = read(ROOT)
    for package in ("sparse_patterns", "datamodules", "lit_modules"):
        entries = {
            path.stem
            for path in (ROOT / package).iterdir()
            if (path.suffix == ".py" or (path / "__init__.py").is_file()) and path.stem[0] != "_"
        }
        assert entries == {n.split(".")[1] for n in rooms if n.startswith(package + ".")}


def plant(root: Path, files: dict[str, str]) -> None:
    for package in ("sparse_patterns", "datamodules", "lit_modules"):
        (root / package).mkdir()
        (root / package / "__init__.py").touch()
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)


def test_every_form_of_import_is_seen(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "sparse_patterns/spec/__init__.py": '"""What it means. And more."""',
            "sparse_patterns/a.py": "from sparse_patterns.spec.b import c",
            "sparse_patterns/b.py": "import sparse_patterns.spec",
            "sparse_patterns/c.py": "def f():\n    from . import spec",
            "sparse_patterns/d.py": "from .spec import x\nimport torch",
            "sparse_patterns/e.py": "from sparse_patterns import get",
            "lit_modules/f.py": "from sparse_patterns import get\nfrom sparse_patterns import a",
        },
    )
    rooms = read(tmp_path)
    for name in "abcd":
        assert rooms[f"sparse_patterns.{name}"].uses == {"sparse_patterns.spec"}
    assert rooms["sparse_patterns.e"].uses == set()
    assert rooms["lit_modules.f"].uses == {"sparse_patterns", "sparse_patterns.a"}
    assert rooms["sparse_patterns.spec"].says == "What it means"


def test_classes_are_found_through_their_bases(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "lit_modules/a.py": "class A(lightning.LightningModule): ...",
            "lit_modules/b.py": "class B(A[int]): ...",
            "lit_modules/c.py": "class C: ...",
        },
    )
    assert derived(read(tmp_path), "LightningModule") == {"lit_modules.a", "lit_modules.b"}


def test_an_arrow_that_follows_from_others_is_left_out() -> None:
    edges = {("a", "b"), ("b", "c"), ("c", "d")}
    assert without_detours(edges | {("a", "c"), ("a", "d")}) == edges


def test_a_circle_is_one_box() -> None:
    boxes = {name: Box.of(name, [], "#fff") for name in "abcd"}
    joined, edges = without_circles(boxes, {("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")})
    assert {name: box.title for name, box in joined.items()} == {"a": "a", "b": "b + c", "d": "d"}
    assert edges == {("a", "b"), ("b", "d")}


def test_boxes_do_not_lie_on_one_another() -> None:
    boxes = {name: Box.of(name * 8, ["one", "two"], "#fff") for name in "abcdefg"}
    text = draw(boxes, {("a", other) for other in "bcdef"} | {("b", "g"), ("a", "g")})
    found = [
        tuple(map(int, match))
        for match in re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', text)
    ]
    assert len(found) == len(boxes)
    for number, (x, y, width, height) in enumerate(found):
        for left, top, wide, high in found[:number]:
            assert x + width <= left or left + wide <= x or y + height <= top or top + high <= y
