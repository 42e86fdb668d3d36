"""Documents are divided by name, for good, or by place in the text."""

from pathlib import Path

import pytest

from datamodules.files.documents import Document
from datamodules.files.splitting import by_file, by_fraction, check_fractions


def documents(folder: Path, count: int, text: str = "0123456789") -> list[Document]:
    made = []
    for number in range(count):
        path = folder / f"{number}.txt"
        path.write_text(text)
        made.append(Document(path, path.name))
    return made


def test_a_document_stays_in_its_split_whatever_others_come(tmp_path: Path) -> None:
    some = documents(tmp_path, 200)
    split = {
        s: {one.document.name for one in parts} for s, parts in by_file(some, 0.2, 0.1).items()
    }
    assert set.union(*split.values()) == {one.name for one in some}
    assert sum(map(len, split.values())) == len(some)
    assert 20 < len(split["val"]) < 60
    assert 5 < len(split["test"]) < 40
    fewer = by_file(some[::2], 0.2, 0.1)
    assert all({one.document.name for one in fewer[s]} <= split[s] for s in split)


def test_a_split_that_stays_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"leaves the (val|train) split without one of the 1"):
        by_file(documents(tmp_path, 1), 0.5, 0)


def test_fractions_of_the_text_are_consecutive_and_whole(tmp_path: Path) -> None:
    some = documents(tmp_path, 3)
    made = by_fraction(some, 0.2, 0.1, tmp_path / "cache")
    assert set(made) == {"train", "val", "test"}
    text = {s: b"".join(b"".join(one.pieces()) for one in parts) for s, parts in made.items()}
    assert text["train"] + text["val"] + text["test"] == b"0123456789" * 3
    assert {s: len(part) for s, part in text.items()} == {"train": 21, "val": 6, "test": 3}


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((-0.1, 0.0), "val_fraction must be >= 0 and < 1, got -0.1"),
        ((0.0, 1.0), "test_fraction must be >= 0 and < 1, got 1.0"),
        ((0.5, 0.5), "val_fraction 0.5 and test_fraction 0.5 leave nothing to train on"),
    ],
)
def test_fractions_that_leave_nothing_are_refused(
    fractions: tuple[float, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_fractions(*fractions)
