"""Pretrained weights: load them, save them for `transformers`, make an encoder long.

>>> from lit_modules.weights import load_encoder, make_long, save_encoder
>>> encoder = load_encoder("roberta-base")                # a folder or file on the disk
>>> print(encoder.report)
>>> long = make_long(encoder, max_length=4096, window=512)
>>> save_encoder(long, "roberta-long")
"""

from lit_modules.pretrained.files import WeightsError
from lit_modules.pretrained.loading import load_encoder
from lit_modules.pretrained.long import check_long, make_long
from lit_modules.pretrained.masked_lm import load_masked_lm, save_masked_lm
from lit_modules.pretrained.reports import LoadReport, LongReport
from lit_modules.pretrained.saving import copy_tokenizer, save_encoder

__all__ = [
    "LoadReport",
    "LongReport",
    "WeightsError",
    "check_long",
    "copy_tokenizer",
    "load_encoder",
    "load_masked_lm",
    "make_long",
    "save_encoder",
    "save_masked_lm",
]
