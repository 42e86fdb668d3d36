"""What mkdocs needs besides the pages in docs/: the files of the root as pages, and a last check.

The README is the start page. It, CONTRIBUTING and CHANGELOG stay in the root, where a repository
browser shows them, with links that work there; here the same links are made relative to docs/.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# What a browser would fetch by itself when it shows a page; a link to follow is none of these.
FETCHED = re.compile(
    r"<(?:script|img|iframe)\b[^>]*\bsrc=\"?(?:https?:)?//"
    r"|<link\b(?=[^>]*\brel=\"?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=\"?(?:https?:)?//"
)


def as_page(text: str) -> str:
    """Links of a file in the root, as links of a page in docs/."""
    for name, page in ROOT_PAGES.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text.replace("](docs/", "](")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of the root as pages."""
    root = Path(config.config_file_path).parent
    for name, page in ROOT_PAGES.items():
        content = as_page((root / name).read_text("utf-8"))
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    """Leads links from docs/ to a file of the root to the page that is made of it."""
    for name, made in ROOT_PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({made}")
    return markdown


def on_post_page(output: str, page: object, config: MkDocsConfig) -> str:
    """Refuses a page that would make a browser fetch something from another machine."""
    if found := FETCHED.search(output):
        raise PluginError(f"{page} loads something from elsewhere: {found.group()}")
    return output
