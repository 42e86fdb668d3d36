"""Markup removed, and pages held out as a whole."""

from __future__ import annotations

from pathlib import Path

from evidence.wikipedia import plain, write_pages
from tests.evidence.encoder_fakes import dump, lines


def test_plain_text_of_a_page() -> None:
    markup = (
        "{{Infobox|a={{nested|b}}}}\n'''Bold''' and ''[[link|its text]]'', a [[plain link]]s."
        "<ref>no</ref><ref name=x/> [[File:a.png|thumb|a [[caption]]]]\n== Head ==\n"
        "* point &amp; mark\n{| table\n|-\n| {{x}}\n|}\n[http://x.org outside]<!-- no -->"
    )
    assert plain(markup) == ("Bold and its text, a plain links. \nHead\npoint & mark\noutside")


def test_pages_are_held_out_as_a_whole(tmp_path: Path) -> None:
    write_pages(dump(tmp_path / "dump.xml", 8), tmp_path, held_out=3, shortest=100)
    parts = {name: lines(tmp_path / f"{name}.jsonl") for name in ("train", "val")}
    titles = {name: {page["title"] for page in pages} for name, pages in parts.items()}
    assert (len(titles["train"]), len(titles["val"])) == (5, 3)
    assert titles["train"] | titles["val"] == {f"P{number}" for number in range(8)}
    before = (tmp_path / "val.jsonl").read_bytes()
    write_pages(tmp_path / "dump.xml", tmp_path, held_out=3, shortest=100)
    assert (tmp_path / "val.jsonl").read_bytes() == before
