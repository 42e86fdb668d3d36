"""Language-model data from text: encoded once into token files, read through memory maps."""

from __future__ import annotations

import array
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files.cache import cache_root, cached_folder, digest_of
from datamodules.files.documents import Document, Section
from datamodules.files.splitting import SplitName
from datamodules.language_model.base import LanguageModelData, check_at_least
from datamodules.language_model.sampling import (
    EvaluationStreams,
    EvaluationWindows,
    RandomWindows,
    Split,
    Streams,
)
from datamodules.loading.shards import Shard, Source
from datamodules.tokenizers.text import ByteTokenizer, Encoded, JsonTokenizer, Tokenizer
from datamodules.tokenizers.token_file import TokenFile, width_for

__all__ = ["TextData", "tokenizer_for"]

# Part of the key of every token file: to be changed with the way they are written.
_FORMAT = 2


def tokenizer_for(path: str | None) -> Tokenizer:
    """Return the tokenizer of a `tokenizers` JSON file, or bytes where `path` is None."""
    return ByteTokenizer() if path is None else JsonTokenizer(path)


class TextData(LanguageModelData):
    """Base of the data sets that are text: a subclass defines which text is in which split.

    Validation and test cover a split with windows of `eval_length` tokens, each `eval_step`
    further, and score every token exactly once.

    Args:
        eval_length: Tokens of a sequence in validation and test; None takes the sequence length of
            the current stage.
        eval_step: Tokens by which a window is further than the one before; it scores its last
            `eval_step` tokens. None takes `eval_length`, so that windows do not overlap.
        stream: Whether each row of a batch continues where it ended in the batch before, for models
            with a memory of previous segments. Where a document (a file, or a part of one that lies
            in a split) begins, the stream begins anew: the batch marks the place. Otherwise
            training sequences begin anywhere, and may hold the end of one document and the
            beginning of another.
        cache_dir: Where token files are kept; None takes the user's cache folder.
        **kwargs: As in `LanguageModelData`: sequence_length, batch_size, eval_batch_size, seed,
            num_workers.
    """

    def __init__(
        self,
        eval_length: int | None = None,
        eval_step: int | None = None,
        stream: bool = False,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if eval_length is not None:
            check_at_least(1, eval_length=eval_length)
        if eval_step is not None:
            check_at_least(1, eval_step=eval_step)
            if stream:
                raise ValueError(
                    f"eval_step {eval_step} cannot be used with stream=True: segments of a stream "
                    "follow one another, memory takes the place of the overlap"
                )
        self.eval_length = eval_length
        self.eval_step = eval_step
        self.stream = stream
        self.cache_dir = cache_dir
        self._splits: dict[str, Split] = {}
        self._folder: Path | None = None

    @property
    def _title(self) -> str:
        """What the data set is called in messages and in the cache."""
        return type(self).__name__

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """How text becomes tokens."""

    @property
    def separator(self) -> str:
        """What stands between two sections."""
        return ""

    @abstractmethod
    def sections(self) -> Mapping[SplitName, Sequence[Section]]:
        """Return the parts of documents that make up each split, in order."""

    @property
    def unit(self) -> str:
        """What a text is measured in: "byte" or "character"."""
        return self.tokenizer.unit

    @property
    def vocabulary_size(self) -> int:
        """How many different tokens there are."""
        return self.tokenizer.vocabulary_size

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self.tokenizer.decode(ids)

    def prepare_data(self) -> None:
        """Encode the text, once for all runs and processes of this machine."""
        self._encoded()

    def setup(self, stage: str | None = None) -> None:
        """Open the token files."""
        if self._splits:
            return
        folder = self._encoded()
        width = width_for(self.vocabulary_size)
        for split in json.loads((folder / "splits.json").read_text()):
            units = TokenFile(folder / f"{split}.units", 4) if self.tokenizer.counts_units else None
            tokens = TokenFile(folder / f"{split}.tokens", width)
            starts = torch.frombuffer(
                bytearray((folder / f"{split}.starts").read_bytes()), dtype=torch.int64
            )
            self._splits[split] = Split(tokens, units, starts)

    def split(self, split: str) -> Split | None:
        """Return the tokens of a split, or None if the data set has no such split."""
        self.setup()
        return self._splits.get(split)

    def train_source(self, shard: Shard) -> Source:
        """Return the training batches of the current stage for one process.

        Raises:
            ValueError: The split is too short for one sequence (or one a row, for streams).
        """
        split = self.split("train")
        if split is None:
            raise ValueError(f"{self._title} has no training split")
        rows = self.batch_size if self.stream else 1
        if split.targets < self.sequence_length * rows:
            raise ValueError(
                f"sequence_length {self.sequence_length} is longer than the data: the training "
                f"split of {self._title} has {len(split.tokens)} tokens"
                + (f" for {rows} streams" if self.stream else "")
                + f"; at most {max(split.targets // rows, 0)} is possible"
            )
        kind = Streams if self.stream else RandomWindows
        return kind(split, self.sequence_length, self.batch_size, self.seed, self.stage, shard)

    def eval_source(self, split: str, shard: Shard) -> Source | None:
        """Return the batches of split "val" or "test", or None if there is no such split.

        Raises:
            ValueError: The step is longer than the windows, or the streams cannot be divided among
                the processes.
        """
        found = self.split(split)
        if found is None:
            return None
        if not found.targets:
            raise ValueError(
                f"the {split} split of {self._title} has {len(found.tokens)} tokens, "
                "but at least 2 are needed: one to read and one to predict"
            )
        length = self.eval_length or self.sequence_length
        step = self.eval_step or length
        rows = self.eval_batch_size or self.batch_size
        if step > length:
            raise ValueError(f"eval_step must be <= eval_length, which is {length}, got {step}")
        if not self.stream:
            return EvaluationWindows(found, length, step, rows, shard)
        if rows % shard.processes:
            raise ValueError(
                f"eval_batch_size {rows} cannot be divided among {shard.processes} processes; "
                f"choose a multiple of {shard.processes}"
            )
        return EvaluationStreams(found, length, rows, shard)

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what identifies the data."""
        return {**super().state_dict(), "data": self._folder.name if self._folder else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the position of a checkpoint."""
        super().load_state_dict(state_dict)
        then, now = state_dict["data"], self._folder.name if self._folder else None
        if then is not None and now is not None and then != now:
            rank_zero_warn(
                "the checkpoint was trained on other text, or on the same in other splits, than "
                f"{self._title} has now ({then}, now {now})"
            )

    def _encoded(self) -> Path:
        """Return the folder of token files, made if it is not there."""
        if self._folder is not None and self._folder.is_dir():
            return self._folder
        root = cache_root(self.cache_dir)
        sections = self.sections()
        digests: dict[Document, str] = {}
        for section in chain.from_iterable(sections.values()):
            if section.document not in digests:
                digests[section.document] = section.document.digest(root)
        key = {
            "format": _FORMAT,
            "tokenizer": digest_of(self.tokenizer.fingerprint),
            "separator": self.separator,
            **self._layout(),
            "splits": {
                split: [[s.document.name, digests[s.document], s.start, s.stop] for s in parts]
                for split, parts in sections.items()
            },
        }
        self._folder = cached_folder(
            root, self._title.lower(), key, lambda folder: self._write(folder, sections)
        )
        return self._folder

    def _layout(self) -> dict[str, Any]:
        """Return what else the token files depend on, as plain data."""
        return {}

    def _special_separator(self) -> Encoded | None:
        """Return the separator as a token that no text can hold; None where it is a text."""
        if not isinstance(self.tokenizer, JsonTokenizer):
            return None
        return self.tokenizer.special_token(self.separator)

    def _write(self, folder: Path, sections: Mapping[SplitName, Sequence[Section]]) -> None:
        width = width_for(self.vocabulary_size)
        for split, parts in sections.items():
            starts = array.array("q")
            with (
                (folder / f"{split}.tokens").open("wb") as tokens,
                (folder / f"{split}.units").open("wb") as units,
            ):
                for index, section in enumerate(parts):
                    # The separator is the first token of what comes after it.
                    starts.append(tokens.tell() // width)
                    between = self.separator.encode() if index else b""
                    special = self._special_separator() if index else None
                    if special is not None:
                        tokens.write(special.ids)
                        units.write(special.units or b"")
                        between = b""
                    pieces = chain([between], section.pieces())
                    source, offset = str(section.document), section.start - len(between)
                    for part in self.tokenizer.encode_pieces(pieces, source, offset):
                        tokens.write(part.ids)
                        units.write(part.units or b"")
            (folder / f"{split}.starts").write_bytes(starts.tobytes())
            if not self.tokenizer.counts_units:
                (folder / f"{split}.units").unlink()
        (folder / "splits.json").write_text(json.dumps(list(sections)))
