"""The text of an article: all of it, in order, a line a paragraph."""

import pytest

import datamodules
from datamodules.files.documents import Document
from datamodules.tasks.classification.hyperpartisan_xml import articles


def read(tmp_path, body):
    path = tmp_path / "articles-training-byarticle-1.xml"
    path.write_text(
        f'<articles><article id="1" title="T">{body}</article></articles>', encoding="utf-8"
    )
    ((_, text, left_out),) = articles(Document(path, path.name))
    return text.split("\n")[1:], left_out


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("<p>One</p>Loose text<p>Two</p>tail", ["One", "Loose text", "Two", "tail"]),
        ("before <a href='x'>a link</a> after<p>One</p>", ["before a link after", "One"]),
        ("<p>One <a href='x'>link</a>, <q>said</q> he</p>", ["One link, said he"]),
        ("<q>First</q><q>Second</q><p>One</p>", ["First", "Second", "One"]),
        ("<blockquote><p>In</p>side</blockquote><p>One</p>", ["In", "side", "One"]),
        ("<q><p>In</p><p>side</p></q><p>One</p>", ["In", "side", "One"]),
        ("<p>One</p><ul><li>a</li><li>b <i>c</i></li></ul>", ["One", "a", "b c"]),
        ("<p>One<br/>Two</p><h2>Head</h2><div><p>Three</p></div>", ["One", "Two", "Head", "Three"]),
        ("<p>One<ul><li>in it</li></ul>on</p>", ["One", "in it", "on"]),
        ("<em>only</em> loose &amp; plain", ["only loose & plain"]),
        ("<p>un</p><!-- not this --><p>touched</p>", ["un", "touched"]),
        ("", []),
    ],
)
def test_all_text_is_kept_in_order_and_paragraphs_apart(tmp_path, body, lines):
    assert read(tmp_path, body) == (lines, 0)


def test_what_is_left_out_is_counted(tmp_path, capsys):
    body = "<p>One</p><script>var x = 1;</script> between <style>p {}</style><p>Two</p>"
    assert read(tmp_path, body) == (["One", "between", "Two"], 2)
    truth = '<articles><article id="1" hyperpartisan="true"/></articles>'
    (tmp_path / "ground-truth-training-byarticle-1.xml").write_text(truth)
    data = datamodules.get("hyperpartisan", path=str(tmp_path), val_fraction=0.0, test_fraction=0.0)
    assert data.notes("train") == {"scripts or style sheets in the article left out": ["1"]}
    assert "1 of 1: scripts or style sheets in the article left out (1)" in capsys.readouterr().err
