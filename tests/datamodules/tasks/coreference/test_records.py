"""JSON lines with coreference, and mentions in more than one cluster."""

import json

import pytest

from datamodules.files.documents import Document
from datamodules.files.records import RecordError
from datamodules.tasks.coreference.records import CorefDocument, coref_json, distinct

GOOD = {
    "doc_key": "nw/x/00/x_0001_2",
    "sentences": [["A", "b"], ["c"]],
    "speakers": [["", "-"], ["S"]],
    "clusters": [[[0, 1], [2, 2]]],
}


def read(tmp_path, *values):
    path = tmp_path / "x.jsonlines"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return list(coref_json(Document(path, path.name)))


def test_documents(tmp_path):
    one, two, three = read(
        tmp_path, GOOD, {**GOOD, "doc_key": "book"}, {k: GOOD[k] for k in ("doc_key", "sentences")}
    )
    assert (one.id, one.name, one.part) == ("nw/x/00/x_0001_2", "nw/x/00/x_0001", "002")
    assert one.words == ["A", "b", "c"]
    assert one.speakers == (("", ""), ("S",))
    assert one.clusters == ([(0, 1), (2, 2)],)
    assert (two.name, two.part) == ("book", "000")
    assert three.clusters is None
    assert three.speakers == (("", ""), ("",))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"doc_key": 3}, "record 'line 1': doc_key: must be text, got 3"),
        ({"sentences": [["a"], "b"]}, "sentences: sentence 1 must be a list of texts, got 'b'"),
        ({"sentences": [["a", 1]]}, "sentences: sentence 0 must be a list of texts"),
        ({"speakers": [["", ""]]}, "speakers: must have one for each word of each sentence"),
        ({"clusters": [[[0, 3]]]}, r"mention \[0, 3\] is not within the 3 words"),
        ({"clusters": [[[1, 0]]]}, r"mention \[1, 0\] is not within the 3 words"),
        ({"clusters": [[[0]]]}, r"a mention must be \[first, last\], got \[0\]"),
        ({"clusters": [[]]}, r"cluster 0 must be a list with a mention, got \[\]"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, match):
    bad, good = read(tmp_path, {**GOOD, **change}, GOOD)
    with pytest.raises(RecordError, match=match):
        raise bad
    assert isinstance(good, CorefDocument)


@pytest.mark.parametrize(
    ("clusters", "expected", "again"),
    [
        ([[(0, 0), (1, 1)], [(2, 2)]], [[(0, 0), (1, 1)], [(2, 2)]], 0),
        ([[(0, 0), (0, 0)]], [[(0, 0)]], 1),
        ([[(0, 0), (1, 1)], [(1, 1), (2, 2)]], [[(0, 0), (1, 1), (2, 2)]], 1),
        (
            [[(0, 0)], [(1, 1)], [(2, 2), (0, 0), (1, 1)], [(3, 3)]],
            [[(0, 0), (1, 1), (2, 2)], [(3, 3)]],
            2,
        ),
    ],
)
def test_clusters_that_share_a_mention_become_one(clusters, expected, again):
    record = CorefDocument("d", "f", (("a",) * 4,), (("",) * 4,), tuple(clusters), "d", "0")
    joined, count = distinct(record)
    assert [*joined.clusters] == expected
    assert count == again
