"""text8: the first 100 million characters of cleaned Wikipedia, in 27 symbols."""

from __future__ import annotations

import string
from typing import Any, Literal

from datamodules.language_model.official import OfficialCorpus
from datamodules.registry import register
from datamodules.tokenizers.text import AlphabetTokenizer

__all__ = ["Text8"]


@register("text8")
class Text8(OfficialCorpus):
    """Wikipedia text in lower-case letters and spaces, 90M/5M/5M characters.

    Args:
        path: The official file, plain, zipped or otherwise compressed, or the folder in which it
            is as text8 or text8.zip.
        split: "official" insists on a file of 100,000,000 characters; "proportional" takes any
            text of these symbols and splits it 90/5/5 %.
        **kwargs: As in `TextData`.
    """

    official_name = "text8"
    tokenizer = AlphabetTokenizer(" " + string.ascii_lowercase)

    def __init__(
        self,
        path: str = "data",
        split: Literal["official", "proportional"] = "official",
        **kwargs: Any,
    ) -> None:
        super().__init__(path, split, **kwargs)
