"""Data sets for long-context models, as Lightning data modules that are found by name.

>>> import datamodules
>>> data = datamodules.get("recall", distance=100)
"""

from datamodules.base import LanguageModelData
from datamodules.batch import IGNORE, LanguageModelBatch
from datamodules.enwik8 import Enwik8
from datamodules.hyperpartisan import Hyperpartisan
from datamodules.imdb import Imdb
from datamodules.labelled_documents import Documents
from datamodules.ontonotes import OntoNotes
from datamodules.recall import Recall
from datamodules.registry import describe, get, names, register
from datamodules.standard_library import StandardLibrary
from datamodules.text import TextData
from datamodules.text8 import Text8
from datamodules.text_files import TextFiles

__all__ = [
    "IGNORE",
    "Documents",
    "Enwik8",
    "Hyperpartisan",
    "Imdb",
    "LanguageModelBatch",
    "LanguageModelData",
    "OntoNotes",
    "Recall",
    "StandardLibrary",
    "Text8",
    "TextData",
    "TextFiles",
    "describe",
    "get",
    "names",
    "register",
]
