"""Python's own source text: always there, split by file, nothing held out leaks."""

import sysconfig
from pathlib import Path

import pytest

from datamodules import StandardLibrary
from datamodules.files.documents import Document


def documents(data: StandardLibrary) -> dict[str, list[Document]]:
    return {
        split: [section.document for section in sections]
        for split, sections in data.sections().items()
    }


def test_the_real_library_is_large_and_split_by_file() -> None:
    data = StandardLibrary()
    found = documents(data)
    names = {split: {d.name for d in part} for split, part in found.items()}
    assert set(names) == {"train", "val", "test"}
    assert names["train"].isdisjoint(names["val"] | names["test"])
    assert names["val"].isdisjoint(names["test"])
    everything = set().union(*names.values())
    assert {"argparse.py", "json/decoder.py"} <= everything
    excluded = ("test", "tests", "idlelib", "site-packages")
    assert not any(part in excluded for name in everything for part in name.split("/"))
    size = sum(d.path.stat().st_size for part in found.values() for d in part)
    assert size > 5_000_000
    held_out = sum(len(names[s]) for s in ("val", "test")) / len(everything)
    assert 0.05 < held_out < 0.2
    digests = {s: {d.digest(Path()) for d in part} for s, part in found.items()}
    assert digests["train"].isdisjoint(digests["val"] | digests["test"])


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "lib"
    for i in range(100):
        path = root / f"m{i}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"value = {i:03}\n")
    for name in ("test/t.py", "site-packages/s.py", "pkg/tests/t.py", "idlelib/i.py", "empty.py"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("excluded" if name != "empty.py" else "")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(root))
    return root


def test_text_and_order(library: Path) -> None:
    data = StandardLibrary(val_fraction=0.2, test_fraction=0)
    data.setup()
    train, val = data.split("train"), data.split("val")
    assert train is not None
    assert val is not None
    assert data.split("test") is None
    text = data.decode(train.tokens.read(0, 50).tolist())
    assert text.startswith("value = 000\n\nvalue = ")
    assert "excluded" not in text
    assert len(train.tokens) + len(val.tokens) == 100 * 12 + 98


def test_copies_count_once(library: Path) -> None:
    (library / "copy.py").write_text("value = 005\n")
    names = [d.name for part in documents(StandardLibrary()).values() for d in part]
    assert len(names) == 100
    assert "copy.py" in names
    assert "m5.py" not in names


def test_a_smaller_size_is_a_choice_of_the_same_files(library: Path) -> None:
    whole, some = (
        {split: {d.name for d in part} for split, part in documents(data).items()}
        for data in (
            StandardLibrary(val_fraction=0.2, test_fraction=0.2),
            StandardLibrary(max_bytes=40 * 12 + 5, val_fraction=0.2, test_fraction=0.2),
        )
    )
    assert sum(map(len, some.values())) == 40
    assert all(some[split] < whole[split] for split in some)


def test_what_cannot_be_is_refused(library: Path) -> None:
    with pytest.raises(ValueError, match="max_bytes must be an int >= 1, got 0"):
        StandardLibrary(max_bytes=0)
    with pytest.raises(FileNotFoundError, match=r"no Python source text in .*lib of at most 3 byt"):
        StandardLibrary(max_bytes=3).prepare_data()
