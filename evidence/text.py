"""The real text that the language models of several rows are trained on, and where it is found."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

VARIABLE = "EVIDENCE_TEXT"
"""Environment variable that names the file; `--text` sets it."""

PACKAGE = "gensim"
INSIDE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"

WIKIPEDIA = (
    "6.1 MB of raw Wikipedia XML, 206 pages, the same kind of dump as enwik8; a file of the "
    "package gensim 4.4.0 (text CC BY-SA). 90 % are for training, 5 % for validation, 5 % for test."
)
"""What the text is, for protocols."""


def wikipedia() -> Path:
    """Return the Wikipedia sample.

    Raises:
        FileNotFoundError: No file is named and the package is not installed.
    """
    given = os.environ.get(VARIABLE)
    if given:
        path = Path(given)
        if not path.is_file():
            raise FileNotFoundError(f"--text or ${VARIABLE}: there is no file {given}")
        return path
    # The package is not imported: it needs libraries that a file of it does not.
    found = importlib.util.find_spec(PACKAGE)
    for place in found.submodule_search_locations or () if found else ():
        path = Path(place) / INSIDE
        if path.is_file():
            return path
    raise FileNotFoundError(
        "the Wikipedia sample is not here: pip install --no-deps gensim==4.4.0, or name the file "
        f"with --text or ${VARIABLE}"
    )
