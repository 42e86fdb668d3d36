"""CoNLL-2012 columns: words, speakers, nested and crossing mentions, and what is broken."""

import pytest

from datamodules.files.documents import Document
from datamodules.files.records import RecordError
from datamodules.tasks.coreference.conll import conll_documents, conll_text

# As released: white space of several widths, predicate columns of any number.
OFFICIAL = """\
#begin document (bc/cctv/00/cctv_0000); part 000
bc/cctv/00/cctv_0000   0    0     In    IN  (TOP(S(PP*   -   -   -   Speaker#1   *   *   -
bc/cctv/00/cctv_0000   0    1    the    DT        (NP*   -   -   -   Speaker#1   *   *   (0|(12
bc/cctv/00/cctv_0000   0    2   city    NN           *   -   -   -   Speaker#1   *   *   12)|(3)
bc/cctv/00/cctv_0000   0    3     /.     .         *))   -   -   -   Speaker#1   *   *   0)

bc/cctv/00/cctv_0000   0    0     It   PRP        (NP*   -   -   -   -   *   (0
bc/cctv/00/cctv_0000   0    1   grew   VBD           *   -   -   -   -   *   (3
bc/cctv/00/cctv_0000   0    2     up    RP           *   -   -   -   -   *   0)
bc/cctv/00/cctv_0000   0    3   here    RB           *   -   -   -   -   *   3)

#end document
#begin document (bc/cctv/00/cctv_0000); part 001
bc/cctv/00/cctv_0000   1    0     No    UH   (TOP*)   -   -   -   A   *   -

#end document
"""


def read(tmp_path, text):
    path = tmp_path / "x_gold_conll"
    path.write_bytes(text.encode())
    return list(conll_documents(Document(path, path.name)))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_official_columns(tmp_path, end):
    one, two = read(tmp_path, OFFICIAL.replace("\n", end))
    assert (one.id, one.name, one.part) == ("bc/cctv/00/cctv_0000_0", "bc/cctv/00/cctv_0000", "000")
    assert one.sentences == (("In", "the", "city", "/."), ("It", "grew", "up", "here"))
    assert one.speakers == (("Speaker#1",) * 4, ("",) * 4)
    # 0 and 3 cross in the second sentence.
    assert one.clusters == ([(1, 2)], [(1, 3), (4, 6)], [(2, 2), (5, 7)])
    assert (two.id, two.part, two.sentences) == ("bc/cctv/00/cctv_0000_1", "001", (("No",),))
    assert two.clusters == ()


def columns(*last, name="d", part="0"):
    lines = [
        "\t".join(
            [name, part, str(i), f"w{i}", "_", "_", "_", "_", "_", "_", "_", "_", coreference]
        )
        for i, coreference in enumerate(last)
    ]
    return "\n".join([f"#begin document ({name}); part {part}", *lines, "", "#end document", ""])


@pytest.mark.parametrize("nothing", ["", "_", "-"])
def test_tabs_and_signs_for_nothing(tmp_path, nothing):
    (one,) = read(tmp_path, columns(nothing, "(0)", nothing))
    assert one.clusters == ([(1, 1)],)
    assert one.speakers == (("", "", ""),)


@pytest.mark.parametrize(
    ("last", "clusters"),
    [
        # Mentions of one cluster within each other: the last one begun is the first to end.
        (("(0", "(0", "0)", "0)"), [[(0, 3), (1, 2)]]),
        (("(0|(0", "0)", "0)"), [[(0, 1), (0, 2)]]),
        (("(0", "(0)|0)"), [[(0, 1), (1, 1)]]),
        (("(0|(0)", "0)"), [[(0, 0), (0, 1)]]),
        (("(1|(2", "1)|(3", "2)|3)"), [[(0, 1)], [(0, 2)], [(1, 2)]]),
    ],
)
def test_brackets(tmp_path, last, clusters):
    (one,) = read(tmp_path, columns(*last))
    assert [*one.clusters] == clusters


@pytest.mark.parametrize(
    ("last", "match"),
    [
        (("(0", "_"), r"record 'd_0': coreference: a mention of cluster 0 does not end \(line 5\)"),
        (("_", "7)"), r"a mention of cluster 7 ends that was not begun \(line 3\)"),
        (("(x)",), r"coreference: must be like \(0\), \(0 or 0\), got '\(x\)' \(line 2\)"),
        (("0",), r"coreference: must be like .* got '0'"),
        (("(0)||(1)",), "coreference: must be like .* got ''"),
    ],
)
def test_brackets_that_are_wrong_spoil_their_part_alone(tmp_path, last, match):
    bad, good = read(tmp_path, columns(*last) + columns("(0)", part="1"))
    with pytest.raises(RecordError, match=match):
        raise bad
    assert good.clusters == ([(0, 0)],)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            columns("_").replace("#end document\n", ""),
            "'d_0': #end document: .* cut short at line 3",
        ),
        (columns("_").replace("#end document\n", "") + columns("_", part="1"), "short at line 4"),
        (columns("_").split("\n", 1)[1], r"'line 1': #begin document: is missing before 'd\\t0"),
        (columns("_") + "#end document\n", "'line 5': #end document: nothing was begun"),
    ],
)
def test_a_file_that_cannot_be_read_on_is_named(tmp_path, text, match):
    with pytest.raises(RecordError, match=match):
        read(tmp_path, text)


def test_too_few_columns_and_empty_parts_are_named(tmp_path):
    few, none = read(tmp_path, columns("_").replace("\t_", "") + columns(part="1"))
    with pytest.raises(RecordError, match=r"columns: a word has 5 or more, got 'd\\t0\\t0\\tw0'"):
        raise few
    with pytest.raises(RecordError, match="record 'd_1': words: there are none"):
        raise none


def test_what_is_written_is_read_again(tmp_path):
    documents = read(tmp_path, OFFICIAL)
    text = conll_text((document, document.clusters) for document in documents)
    again = read(tmp_path, text)
    for one, other in zip(documents, again, strict=True):
        assert (one.id, one.sentences, one.clusters) == (other.id, other.sentences, other.clusters)
    lines = text.splitlines()
    assert lines[0] == "#begin document (bc/cctv/00/cctv_0000); part 000"
    assert lines[1] == "bc/cctv/00/cctv_0000\t000\t0\tIn\t-"
    assert lines[2].split("\t")[-1] == "(1|(0"
    assert lines[3].split("\t")[-1] == "(2)|0)"
