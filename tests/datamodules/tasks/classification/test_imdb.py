"""IMDB from its folder, its archive and tables."""

import csv
import json
import tarfile

import pytest

import datamodules
from datamodules.files.records import RecordError


@pytest.fixture
def folder(tmp_path):
    """As it is released, with other files around."""
    root = tmp_path / "aclImdb"
    for split in ("train", "test"):
        for name in ("pos", "neg"):
            place = root / split / name
            place.mkdir(parents=True)
            for number, stars in ((0, 9), (1, 7), (10, 8)):
                text = f"<br />{split} {name} {number}"
                (place / f"{number}_{stars}.txt").write_text(text)
        (root / split / "urls_pos.txt").write_text("http://\n")
    unsup = root / "train" / "unsup"
    unsup.mkdir()
    (unsup / "0_0.txt").write_text("nobody knows")
    (root / "README").write_text("about")
    (root / "imdb.vocab").write_text("the\n")
    return root


def found(data, split):
    return {example.id: example.fields["label"] for example in data.examples(split)}


EXPECTED = {
    f"{name}/{file}": name == "pos" for name in ("neg", "pos") for file in ("0_9", "10_8", "1_7")
}


def test_the_official_folder(folder):
    data = datamodules.get("imdb", path=str(folder), batch_size=6)
    assert (data.task, data.classes, data.class_names) == ("classification", 2, ("neg", "pos"))
    assert found(data, "train") == found(data, "test") == EXPECTED
    (batch,) = data.test_dataloader()
    assert batch["labels"].tolist() == [0, 1] * 3
    assert batch["ids"][:3] == ["neg/0_9", "pos/0_9", "neg/1_7"]
    text = data.tokenizer.encode("test neg 0")[0]
    assert batch["input_ids"][0].tolist()[1:-1] == text


def test_a_part_has_both_classes(folder):
    data = datamodules.get("imdb", path=str(folder), limit=4)
    assert [*found(data, "train").values()] == [0, 1, 0, 1]


def test_the_official_archive(folder, tmp_path):
    archive = tmp_path / "aclImdb_v1.tar.gz"
    with tarfile.open(archive, "w:gz") as made:
        made.add(folder, "aclImdb")
    data = datamodules.get("imdb", path=str(archive))
    assert found(data, "train") == found(data, "test") == EXPECTED


def test_reviews_without_a_class_are_predicted(folder):
    with pytest.raises(RecordError, match=r"urls_pos\.txt: record .*: folder: must be neg, pos"):
        datamodules.get("imdb", train=str(folder / "train")).setup()
    pos, unsup = (str(folder / "train" / name) for name in ("pos", "unsup"))
    data = datamodules.get("imdb", train=pos, test=unsup)
    assert found(data, "test") == {"unsup/0_0": -1}


TABLES = {
    "text,label,source": [("a", 0, "imdb"), ("b", 1, "imdb"), ("c", 1, "rotten_tomatoes")],
    "review,sentiment": [("a", "negative"), ("b", "positive")],
    "text,label": [("a", "Neg"), ("b", "Pos")],
}


@pytest.mark.parametrize("header", TABLES)
def test_tables(tmp_path, header, capsys):
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *TABLES[header]])
    data = datamodules.get("imdb", path=str(tmp_path))
    assert found(data, "train") == {"train.csv:row 1": 0, "train.csv:row 2": 1}
    told = capsys.readouterr().err
    assert ("1 of 3: source is rotten_tomatoes, not imdb" in told) == ("source" in header)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for split, label in (("train", 1), ("test", -1)):
        table = pyarrow.Table.from_pylist([{"text": f"a {split}", "label": label}])
        parquet.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    data = datamodules.get("imdb", path=str(tmp_path))
    assert [*found(data, "train").values()] == [1]
    assert [*found(data, "test").values()] == [-1]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"text": "x", "label": 5}, "record 'train.jsonl:line 1': label: '5' is none of neg, neg"),
        ({"text": "x"}, "record 'train.jsonl:line 1': label: is missing"),
        ({"text": "", "label": 1}, "record 'train.jsonl:line 1': text: is empty"),
        ({"label": 1}, "text: is missing; fields there are: label"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, row, match):
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    with pytest.raises(RecordError, match=match):
        datamodules.get("imdb", path=str(tmp_path)).setup()


def test_another_encoding_is_named(folder):
    (folder / "train" / "neg" / "10_8.txt").write_bytes(b"caf\xe9")
    with pytest.raises(
        ValueError, match=r"neg/10_8\.txt: the byte b'\\xe9' at offset 3 is not UTF"
    ):
        datamodules.get("imdb", path=str(folder)).setup()


def test_an_empty_review_is_named(folder):
    (folder / "train" / "neg" / "10_8.txt").write_text("")
    with pytest.raises(RecordError, match="record 'neg/10_8': text: is empty"):
        datamodules.get("imdb", path=str(folder)).setup()


MARKUP = "Good.<br /><br />Caf&eacute; &amp; &quot;bar&quot; &lt;3 &#39;90s<BR>end < 4"
PLAIN = 'Good.\n\nCaf\u00e9 & "bar" <3 \'90s\nend < 4'


def test_markup_becomes_line_breaks_and_characters(tmp_path, folder):
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": MARKUP, "label": 1}))
    (folder / "train" / "neg" / "0_9.txt").write_text(MARKUP)
    for markup, text in (({}, PLAIN), ({"markup": "text"}, PLAIN), ({"markup": "keep"}, MARKUP)):
        table = datamodules.get("imdb", train=str(tmp_path / "train.jsonl"), **markup)
        (record,) = table.good_records("train")
        assert record.text == text
        (example,) = table.examples("train")
        assert example.rows[0].tokens.ids[1:-1] == table.tokenizer.encode(text)[0]
        files = datamodules.get("imdb", path=str(folder), **markup)
        assert {r.id: r.text for r in files.good_records("train")}["neg/0_9"] == text
    with pytest.raises(ValueError, match="markup must be 'text' or 'keep', got 'html'"):
        datamodules.get("imdb", path=str(folder), markup="html")


def test_shared_reviews_are_counted(folder, capsys):
    (folder / "train" / "neg" / "0_9.txt").write_text("test pos\n0")
    data = datamodules.get("imdb", path=str(folder))
    note = "text is also that of a held-out record"
    assert data.notes("train") == {note: ["neg/0_9"]}
    assert data.notes("test") == {}
    assert f"Imdb train: 1 of 6: {note} (neg/0_9)" in capsys.readouterr().err


def test_shared_reviews_are_kept_unless_asked(folder):
    (folder / "train" / "neg" / "0_9.txt").write_text("<br />test pos 0")
    assert len(found(datamodules.get("imdb", path=str(folder)), "train")) == 6
    with pytest.raises(RecordError, match="record 'neg/0_9': text: is also that of a held-out"):
        datamodules.get("imdb", path=str(folder), keep_shared=False).setup()
