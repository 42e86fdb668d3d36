"""Data sets for long-context models, as Lightning data modules that are found by name.

>>> import datamodules
>>> data = datamodules.get("recall", distance=100)
"""

from datamodules.base import LanguageModelData
from datamodules.batch import IGNORE, LanguageModelBatch
from datamodules.enwik8 import Enwik8
from datamodules.far_choice import FarChoice
from datamodules.hotpotqa import HotpotQA
from datamodules.hyperpartisan import Hyperpartisan
from datamodules.imdb import Imdb
from datamodules.labelled_documents import Documents
from datamodules.masked_text import MaskedText
from datamodules.ontonotes import OntoNotes
from datamodules.recall import Recall
from datamodules.registry import describe, get, names, register
from datamodules.squad import Squad
from datamodules.standard_library import StandardLibrary
from datamodules.task import TaskData
from datamodules.text import TextData
from datamodules.text8 import Text8
from datamodules.text_files import TextFiles
from datamodules.triviaqa import TriviaQA
from datamodules.wikihop import WikiHop

__all__ = [
    "IGNORE",
    "Documents",
    "Enwik8",
    "FarChoice",
    "HotpotQA",
    "Hyperpartisan",
    "Imdb",
    "LanguageModelBatch",
    "LanguageModelData",
    "MaskedText",
    "OntoNotes",
    "Recall",
    "Squad",
    "StandardLibrary",
    "TaskData",
    "Text8",
    "TextData",
    "TextFiles",
    "TriviaQA",
    "WikiHop",
    "describe",
    "get",
    "names",
    "register",
]
