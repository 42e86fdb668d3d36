"""The Python code of the guides runs as it stands, and their links lead somewhere."""

import pkgutil
import re
from pathlib import Path

import pytest

from lit_modules.commands.configs.shipped import names

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
# Tested beside the module that it is about.
ELSEWHERE = {"huggingface.md", "images.md"}
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


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name
)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_the_readme_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [page.name for page in PAGES if f"docs/{page.name}" not in text] == []


# Modules and files of ours in running text: of these only existing ones may be named.
MODULE = re.compile(r"`((?:sparse_patterns|datamodules|lit_modules)(?:\.\w+)+)`")
FILE = re.compile(r"`((?:sparse_patterns|datamodules|lit_modules|tests|docs)/[\w/.-]+\.\w+)`")
# The group of entry points is a name, no module; the others are to be written by a reader.
NAMES = {"sparse_patterns.patterns", "sparse_patterns.datamodules", "sparse_patterns.global_tokens"}
WRITTEN_BY_READERS = re.compile(r"mine|stars|regression|NAME")


def missing(text: str) -> list[str]:
    """What a text names of our modules and files, and does not exist."""
    files = [name for name in FILE.findall(text) if not WRITTEN_BY_READERS.search(name)]
    gone = [name for name in files if not (ROOT / name).exists()]
    for name in set(MODULE.findall(text)) - NAMES:
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            gone.append(name)
    return gone


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name
)
def test_modules_and_files_that_are_named_exist(page: Path) -> None:
    assert missing(page.read_text("utf-8")) == []


# What a page calls a shipped configuration; a variable of the shell stands for any of several.
SHIPPED = re.compile(r"(?<![\w/.])((?:lm|mlm|tasks|patterns)/[a-z0-9$][\w$-]*)(?![\w/.])")


def not_shipped(text: str) -> list[str]:
    """What a text names as a shipped configuration, and is none."""
    found = []
    for name in SHIPPED.findall(text):
        pattern = re.compile(re.sub(r"\\\$\w+?(?=\\-|$)", ".+", re.escape(name)))
        if not any(pattern.fullmatch(known) for known in names()):
            found.append(name)
    return found


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "Makefile", *PAGES], ids=lambda page: page.name
)
def test_configurations_that_are_named_are_shipped(page: Path) -> None:
    assert not_shipped(page.read_text("utf-8")) == []


def test_a_configuration_that_is_not_shipped_is_seen() -> None:
    text = (
        "--config lm/stdlb `tasks/wikihop` lm/ablation-$arm-tiny lm/ablation-$arm-large (mlm/tiny)"
    )
    assert not_shipped(text) == ["lm/stdlb", "lm/ablation-$arm-large"]


def test_a_name_from_before_a_move_is_seen() -> None:
    text = (
        "`sparse_patterns.codec`, `sparse_patterns.attention`, `datamodules/text.py`, `tests/x.py`"
    )
    assert missing(text) == ["datamodules/text.py", "tests/x.py", "sparse_patterns.codec"]
