"""enwik8: the first 100 million bytes of a Wikipedia dump, XML and all."""

from __future__ import annotations

from typing import Any, Literal

from datamodules.language_model.official import OfficialCorpus
from datamodules.registry import register
from datamodules.tokenizers.text import ByteTokenizer

__all__ = ["Enwik8"]


@register("enwik8")
class Enwik8(OfficialCorpus):
    """Wikipedia as XML, 90M/5M/5M bytes.

    Args:
        path: The official file, plain, zipped or otherwise compressed, or the folder in which it
            is as enwik8 or enwik8.zip.
        split: "official" insists on a file of 100,000,000 bytes; "proportional" takes any file,
            such as a shorter dump, and splits it 90/5/5 %.
        **kwargs: As in `TextData`.
    """

    official_name = "enwik8"
    tokenizer = ByteTokenizer()

    def __init__(
        self,
        path: str = "data",
        split: Literal["official", "proportional"] = "official",
        **kwargs: Any,
    ) -> None:
        super().__init__(path, split, **kwargs)
