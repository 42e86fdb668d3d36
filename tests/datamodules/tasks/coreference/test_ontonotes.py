"""Coreference documents as batches, and LitBank counted against its raw columns."""

import json
import re
import tarfile

import pytest
import torch

import datamodules
from datamodules.files.records import RecordError
from lit_modules.metrics import CoreferenceScore
from tests.datamodules.tasks.coreference.test_conll import OFFICIAL, columns


@pytest.fixture
def folder(tmp_path):
    """The folders of the official release."""
    for split in ("train", "development", "test"):
        place = tmp_path / "conll-2012" / split / "data/english/annotations/bc/cctv/00"
        place.mkdir(parents=True)
        (place / "cctv_0000.v4_gold_conll").write_text(OFFICIAL)
    return str(tmp_path)


def batch_of(data, split="val"):
    return next(iter(getattr(data, f"{split}_dataloader")()))


def test_a_batch_is_a_document(folder):
    data = datamodules.get("ontonotes", path=folder, segment_length=8)
    assert (data.task, data.genres) == ("coreference", 8)
    assert data.splits() == ["train", "val", "test"]
    batch = batch_of(data)
    first, end, pad = data.tokenizer.first_id, data.tokenizer.separator_id, data.pad_id
    words = ["In", "the", "city", ".", "It", "grew", "up", "here"]
    a, b, c, d, e, f, g, h = (data.tokenizer.encode(word)[0][0] for word in words)
    assert batch["input_ids"].tolist() == [[first, a, b, c, d, end], [first, e, f, g, h, end]]
    assert pad not in batch["input_ids"]
    assert batch["words"].tolist() == [[-1, 0, 1, 2, 3, -1], [-1, 4, 5, 6, 7, -1]]
    assert batch["example"].tolist() == [0, 0]
    assert not batch["global_mask"].any()
    assert batch["sentences"].tolist() == [0] * 4 + [1] * 4
    assert batch["speakers"].tolist() == [1] * 4 + [0] * 4
    assert batch["genre"].shape == ()
    assert int(batch["genre"]) == 1
    mentions = [[1, 2], [1, 3], [2, 2], [4, 6], [5, 7]]
    assert batch["mentions"].tolist() == mentions
    assert batch["clusters"].tolist() == [0, 1, 2, 1, 2]
    assert batch["tokens"] == [["In", "the", "city", "/.", "It", "grew", "up", "here"]]
    assert batch["ids"] == ["bc/cctv/00/cctv_0000_0"]


def test_a_document_without_mentions(folder):
    data = datamodules.get("ontonotes", path=folder)
    *_, batch = data.val_dataloader()
    assert batch["mentions"].shape == (0, 2)
    assert batch["clusters"].shape == (0,)
    assert batch["mentions"].dtype == batch["clusters"].dtype == torch.int64


def test_segments_are_padded(tmp_path):
    (tmp_path / "train.conll").write_text(OFFICIAL)
    data = datamodules.get("ontonotes", path=str(tmp_path), tokenizer="bytes", segment_length=16)
    batch = data.collate([data.examples("train")[0]])
    assert batch["input_ids"].shape == (2, 14)
    assert torch.equal(batch["words"] >= 0, batch["key_mask"] & (batch["input_ids"] >= 5))
    numbers = batch["words"][batch["words"] >= 0]
    assert numbers.tolist() == sorted(numbers.tolist())
    assert numbers.unique().tolist() == list(range(8))


def test_training_may_be_cut_to_the_first_segments(folder):
    data = datamodules.get("ontonotes", path=folder, segment_length=8, max_segments=1)
    cut, whole = data.collate([data.examples("train")[0]]), batch_of(data)
    assert cut["input_ids"].shape[0] == 1
    assert cut["tokens"] == [["In", "the", "city", "/."]]
    assert len(cut["sentences"]) == len(cut["speakers"]) == 4
    assert cut["mentions"].tolist() == [[1, 2], [1, 3], [2, 2]]
    assert cut["clusters"].tolist() == [0, 1, 2]
    assert whole["input_ids"].shape[0] == 2
    assert data.notes("train") == {"document cut to max_segments 1": ["bc/cctv/00/cctv_0000_0"]}
    assert data.notes("val") == {}


def test_singletons_may_be_left_out(folder):
    data = datamodules.get("ontonotes", path=folder, singletons=False)
    assert batch_of(data)["clusters"].tolist() == [0, 1, 0, 1]
    assert data.notes("val") == {"clusters of one mention left out": ["bc/cctv/00/cctv_0000_0"]}
    assert [len(clusters) for _, clusters in data.references("val")] == [2, 0]


def test_json_lines(tmp_path):
    value = {
        "doc_key": "nw/wsj/00/wsj_0001_0",
        "sentences": [["A", "man"], ["he"]],
        "speakers": [["", ""], ["S"]],
        "clusters": [[[2, 2], [0, 1]]],
    }
    (tmp_path / "train.english.jsonlines").write_text(json.dumps(value) + "\n")
    del value["clusters"]
    (tmp_path / "test.english.jsonlines").write_text(json.dumps(value) + "\n")
    data = datamodules.get("ontonotes", path=str(tmp_path))
    batch = batch_of(data, "train")
    assert batch["mentions"].tolist() == [[0, 1], [2, 2]]
    assert batch["clusters"].tolist() == [0, 0]
    assert (int(batch["genre"]), batch["speakers"].tolist()) == (4, [0, 0, 1])
    assert batch_of(data, "predict")["mentions"].shape == (0, 2)
    assert "no clusters, so it is not scored" in data.notes("test")
    assert [*data.references("test")] == []


def test_the_official_response(folder, tmp_path):
    data = datamodules.get("ontonotes", path=folder)
    predictions = [{"id": id, "clusters": clusters} for id, clusters in data.references("test")]
    text = data.submission(predictions[::-1])
    (tmp_path / "response.conll").write_text(text)
    response = datamodules.get("ontonotes", test=str(tmp_path / "response.conll"))
    assert [*response.references("test")] == [*data.references("test")]
    match = r"has 1 documents without a prediction.*: bc/.*cctv_0000_1"
    with pytest.warns(UserWarning, match=match):
        incomplete = data.submission(predictions[:1])
    assert incomplete == text[: text.index("#begin document", 1)]
    with pytest.raises(ValueError, match="test: there is no document 'other'"):
        data.submission([*predictions, {"id": "other", "clusters": []}])
    predictions[0]["clusters"] = [[(0, 2), (1, 3)]]
    with pytest.warns(UserWarning, match="cctv_0000_0: mentions of one cluster that cross"):
        data.submission(predictions)


def test_a_mention_in_two_clusters_joins_them(tmp_path):
    (tmp_path / "train.conll").write_text(columns("(0)|(1)", "(0)", "(1)"))
    data = datamodules.get("ontonotes", path=str(tmp_path))
    assert batch_of(data, "train")["clusters"].tolist() == [0, 0, 0]
    assert data.notes("train") == {"mention in more than one cluster: these are joined": ["d_0"]}


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"segment_length": 8, "tokenizer": "bytes"}, RecordError, "a word of 40 pieces is longer"),
        ({"segment_length": 4}, ValueError, "segment_length must be an int >= 8, got 4"),
        ({"max_segments": 0}, ValueError, "max_segments must be an int >= 1, got 0"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, fields, error, match):
    (tmp_path / "train.conll").write_text(columns("_").replace("w0", "w" * 40))
    with pytest.raises(error, match=match):
        datamodules.get("ontonotes", path=str(tmp_path), **fields).setup()


def test_several_documents_in_a_batch_are_refused(folder):
    data = datamodules.get("ontonotes", path=folder, batch_size=2)
    with pytest.raises(ValueError, match="batch_size must be 1 document for each process, got 2"):
        batch_of(data)


def test_a_long_sentence_is_cut_and_told(tmp_path):
    (tmp_path / "train.conll").write_text(columns(*["_"] * 20))
    data = datamodules.get("ontonotes", path=str(tmp_path), segment_length=8)
    assert batch_of(data, "train")["words"].max(1).values.tolist() == [5, 11, 17, 19]
    assert data.notes("train") == {"sentence longer than segment_length 8 cut": ["d_0"]}


@pytest.mark.slow
def test_litbank_is_read_with_every_mention_and_cluster(sample):
    path = sample / "litbank-coref-conll.tar.xz"
    with tarfile.open(path) as archive:
        files = [archive.extractfile(m).read().decode() for m in archive.getmembers() if m.isfile()]
    lines = [line.split("\t") for text in files for line in text.split("\n")]
    words = [line for line in lines if len(line) > 1]
    opened = sum(line[-1].count("(") for line in words)
    named = {(line[0], number) for line in words for number in re.findall(r"\d+", line[-1])}
    assert (len(files), opened) == (100, 29103)

    data = datamodules.get("ontonotes", train=str(path), segment_length=512)
    examples = data.examples("train")
    assert len(examples) == 100
    assert sum(len(e.fields["mentions"]) for e in examples) == opened
    assert sum(len(set(e.fields["clusters"])) for e in examples) == len(named)
    assert sum(len(e.fields["tokens"]) for e in examples) == len(words)
    assert data.notes("train") == {}
    for example in examples:
        numbers = [w for row in example.rows for w in row.columns["words"] if w >= 0]
        assert sorted(set(numbers)) == list(range(len(example.fields["tokens"])))
        assert numbers == sorted(numbers)
        assert all(len(row.tokens) <= 512 for row in example.rows)
        ends = {row.columns["words"][-2] for row in example.rows[:-1]}
        sentences = example.fields["sentences"]
        assert all(sentences[end] < sentences[end + 1] for end in ends)


def test_the_gold_clusters_of_litbank_score_everything(sample):
    pytest.importorskip("scipy")
    data = datamodules.get("ontonotes", train=str(sample / "litbank-coref-conll.tar.xz"))
    metric, links = CoreferenceScore(), CoreferenceScore(singletons=False)
    singletons = 0
    for _, clusters in data.references("train"):
        metric.update(clusters, clusters)
        # What a model that links all mentions rightly says: LitBank has mentions without a link.
        linked = [cluster for cluster in clusters if len(cluster) > 1]
        links.update(linked, clusters)
        singletons += len(clusters) - len(linked)
    assert {float(value) for value in metric.compute().values()} == {1.0}
    figures = {name: float(value) for name, value in links.compute().items()}
    assert figures.pop("gold_singletons_left_out") == singletons > 5000
    assert set(figures.values()) == {1.0}
