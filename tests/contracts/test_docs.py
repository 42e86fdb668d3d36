"""The Python code of the guides runs as it stands, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
# Tested beside the module that it is about.
ELSEWHERE = {"huggingface.md"}
# Pages whose code is a file for the reader to write, not to run in one go.
FRAGMENTS = {"cli.md"}
RUN = [
    (page.name, number, code)
    for page in PAGES
    if page.name not in ELSEWHERE | FRAGMENTS
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S))
]


@pytest.mark.parametrize(("page", "number", "code"), RUN, ids=[f"{p}-{n}" for p, n, _ in RUN])
def test_code_runs(page, number, code, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"docs/{page}", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_the_readme_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [page.name for page in PAGES if f"docs/{page.name}" not in text] == []
