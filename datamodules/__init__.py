"""Data sets for long-context models, as Lightning data modules that are found by name.

>>> import datamodules
>>> data = datamodules.get("recall", distance=100)
"""

from datamodules.language_model.base import LanguageModelData
from datamodules.language_model.batch import IGNORE, LanguageModelBatch
from datamodules.language_model.enwik8 import Enwik8
from datamodules.language_model.recall import Recall
from datamodules.language_model.standard_library import StandardLibrary
from datamodules.language_model.text import TextData
from datamodules.language_model.text8 import Text8
from datamodules.language_model.text_files import TextFiles
from datamodules.masked.text import MaskedText
from datamodules.registry import describe, get, names, register
from datamodules.tasks import global_tokens
from datamodules.tasks.base import TaskData
from datamodules.tasks.classification.documents import Documents
from datamodules.tasks.classification.hyperpartisan import Hyperpartisan
from datamodules.tasks.classification.imdb import Imdb
from datamodules.tasks.coreference.ontonotes import OntoNotes
from datamodules.tasks.qa.far_choice import FarChoice
from datamodules.tasks.qa.hotpotqa import HotpotQA
from datamodules.tasks.qa.squad import Squad
from datamodules.tasks.qa.triviaqa import TriviaQA
from datamodules.tasks.qa.wikihop import WikiHop

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
    "global_tokens",
    "names",
    "register",
]
