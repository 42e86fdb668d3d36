"""Hyperpartisan news: the XML pair, plain and zipped, JSON lines, and disjoint splits."""

import json
import zipfile

import pytest

import datamodules
from datamodules.files.records import RecordError

ARTICLE = (
    '<article id="{id}" published-at="2017-09-10" title="Caf&#233; {id}"><p>One <a href="x" '
    'type="external">link</a>\n  &amp; {id}.</p>\n<q>Said</q><p>Two</p></article>'
)
TRUTH = '<article id="{id}" hyperpartisan="{label}" url="http://x" labeled-by="article"/>'
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'


def pair(count, first=0, label=lambda i: i % 3 == 0):
    ids = [f"{i:07d}" for i in range(first, first + count)]
    articles = "\n".join(ARTICLE.format(id=i) for i in ids)
    truths = "\n".join(TRUTH.format(id=i, label=str(label(int(i))).lower()) for i in ids)
    return HEAD + f"<articles>{articles}</articles>", HEAD + f"<articles>{truths}</articles>"


NAMES = tuple(f"{kind}-training-byarticle-20181122" for kind in ("articles", "ground-truth"))


def write_pair(folder, texts, zipped=False, names=NAMES):
    for name, text in zip(names, texts, strict=True):
        if zipped:
            with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
                archive.writestr(f"{name}.xml", text)
        else:
            (folder / f"{name}.xml").write_text(text, encoding="utf-8")


def all_of(data):
    return {e.id: e.fields["label"] for split in data.splits() for e in data.examples(split)}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_the_official_pair(tmp_path, zipped, named):
    write_pair(tmp_path, pair(200), zipped)
    file = str(tmp_path / (NAMES[0] + (".zip" if zipped else ".xml")))
    given = {"train": file} if named else {"path": str(tmp_path)}
    data = datamodules.get("hyperpartisan", **given)
    assert (data.classes, data.class_names) == (2, ("false", "true"))
    assert all_of(data) == {f"{i:07d}": int(i % 3 == 0) for i in range(200)}
    sizes = {split: len(data.examples(split)) for split in ("train", "val", "test")}
    # A tenth each on average: within four standard deviations of 20.
    assert 3 <= sizes["val"] <= 37
    assert 3 <= sizes["test"] <= 37
    texts = {r.id: r.text for r in data.good_records("train")}
    id = min(texts)
    assert texts[id] == f"Café {id}\nOne link & {id}.\nSaid\nTwo"


def test_the_seed_decides_the_split(tmp_path):
    write_pair(tmp_path, pair(60))
    drawn = []
    for seed in (0, 0, 1):
        data = datamodules.get("hyperpartisan", path=str(tmp_path), split_seed=seed)
        drawn.append([e.id for e in data.examples("test")])
    assert drawn[0] == drawn[1] != drawn[2]


def test_equal_texts_are_drawn_into_the_same_split(tmp_path):
    rows = [{"id": str(i), "text": f"t {i // 2}", "label": i % 3 == 0} for i in range(100)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = datamodules.get("hyperpartisan", path=str(tmp_path))
    texts = [{r.text for r in data.good_records(split)} for split in ("train", "val", "test")]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 50
    assert all(texts)


def test_classes_in_a_file_of_another_name(tmp_path):
    write_pair(tmp_path, pair(5), names=("articles-training-byarticle-1", "classes"))
    data = datamodules.get("hyperpartisan", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"there is no ground-truth-\.\.\. file beside it"):
        data.setup()
    data = datamodules.get(
        "hyperpartisan", path=str(tmp_path), ground_truth=str(tmp_path / "classes.xml")
    )
    assert len(all_of(data)) == 5


def test_another_truth_makes_other_examples(tmp_path):
    write_pair(tmp_path, pair(5))
    fields = {"path": str(tmp_path), "val_fraction": 0.0, "test_fraction": 0.0}
    before = all_of(datamodules.get("hyperpartisan", **fields))
    write_pair(tmp_path, pair(5, label=lambda i: i % 3 != 0))
    after = all_of(datamodules.get("hyperpartisan", **fields))
    assert after == {id: 1 - label for id, label in before.items()}


@pytest.mark.parametrize("shared", ["id", "text"])
def test_splits_must_be_disjoint(tmp_path, shared):
    train = [{"id": f"a{i}", "text": f"t {i}", "label": "true"} for i in range(3)]
    test = {"id": "b", "text": "u", "label": "false"} | {shared: train[1][shared]}
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, train)))
    (tmp_path / "test.jsonl").write_text(json.dumps(test))
    fields = {"path": str(tmp_path), "val_fraction": 0.0}
    match = rf"record 'a1': {shared}: is also that of a held-out record, '.*' of .*test\.jsonl"
    with pytest.raises(RecordError, match=match):
        datamodules.get("hyperpartisan", **fields).setup()
    data = datamodules.get("hyperpartisan", **fields, skip_bad_records=True)
    assert [e.id for e in data.examples("train")] == ["a0", "a2"]
    assert len(data.examples("test")) == 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a, t: (a[:-30], t), "record 'after 0000001': XML: is not well formed"),
        (lambda a, t: (a, t[:-14]), "record 'after 0000001': XML: is not well formed"),
        (
            lambda a, t: (a, t.replace('n="false"', 'n="maybe"')),
            "record '0000001': hyperpartisan: must be true or false, got 'maybe'",
        ),
        (
            lambda a, t: (a, t.replace("0000002", "0000009")),
            "record '0000002': hyperpartisan: is not in .*ground-truth-training-byarticle",
        ),
        (
            lambda a, t: (a.replace(ARTICLE.format(id="0000002"), ""), t),
            "ground-truth.*record '0000002': id: has no article in .*articles-training",
        ),
        (
            lambda a, t: (a.replace(' id="0000001"', ""), t),
            "record 'after 0000000': id: is missing",
        ),
        (
            lambda a, t: (a.replace('"0000001"', '"0000000"'), t),
            "record '0000000': id: is there twice",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, match):
    write_pair(tmp_path, change(*pair(3)))
    with pytest.raises(RecordError, match=match):
        datamodules.get("hyperpartisan", path=str(tmp_path)).setup()


def test_json_lines_with_a_label_outside_the_set(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"id": 3, "text": "x", "label": "left"}')
    match = "record '3': label: 'left' is none of the classes false, true"
    with pytest.raises(RecordError, match=match):
        datamodules.get(
            "hyperpartisan", path=str(tmp_path), val_fraction=0.0, test_fraction=0.0
        ).setup()


def test_the_official_submission(tmp_path):
    write_pair(tmp_path, pair(3))
    data = datamodules.get("hyperpartisan", path=str(tmp_path))
    predictions = [
        {"id": "0000001", "label": 1, "scores": [0.25, 0.75]},
        {"id": "0000002", "label": 0},
    ]
    assert data.submission(predictions) == "0000001 true 0.75\n0000002 false\n"
