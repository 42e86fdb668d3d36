"""Documents for masked language models: packed into long rows, masked anew each time."""

from __future__ import annotations

import array
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from datamodules.files.documents import Section
from datamodules.files.packing import Kind, texts_in
from datamodules.files.splitting import SplitName
from datamodules.language_model.base import check_at_least
from datamodules.language_model.text_files import TextFiles
from datamodules.loading.shards import Shard, Source
from datamodules.masked.masking import Masking
from datamodules.masked.sampling import MaskedEvaluation, MaskedRows, MaskedWindows, Packed
from datamodules.registry import register
from datamodules.tokenizers.masked import MaskedTokenizer
from datamodules.tokenizers.token_file import TokenFile, width_for

__all__ = ["MaskedText"]

# Array codes by bytes of a number.
_CODES = {1: "B", 2: "H", 4: "I"}


@register("masked-text")
class MaskedText(TextFiles):
    """Any text files, for masked language models.

    Documents follow one another, each followed by the separator; a row is the first token, as
    much of them as fits, and the separator. In training, places and masks are drawn anew for each
    batch, as a function of seed and batch number alone; validation and test cover their split with
    masks that are always the same.

    Args:
        files: Files, folders (everything below them) and globs; .gz, .bz2, .xz and .zip are
            decompressed.
        tokenizer: A JSON file of the `tokenizers` library, a folder as Hugging Face models are
            saved in, or "bytes"; `sparse-patterns train-tokenizer` makes one.
        documents: What a document is: each of the files, each of the lines of a file, or each of
            the records of jsonlines.
        field: The field of a record that holds its text.
        mask_share: Chance of a token to be masked.
        whole_words: Mask words with all their tokens.
        segments: Whether attention stays within a document.
        split: "fraction" cuts all text, in the order of `files`, into a beginning, a middle and an
            end; "file" puts each file as a whole into one split, by a hash of its name.
        val_fraction: Share of the validation split; 0 for none.
        test_fraction: Share of the test split; 0 for none.
        val_files: Files, folders and globs of the validation split, if it is separate.
        test_files: The same of the test split.
        sequence_length: Tokens of a training row, first token and separator included.
        eval_length: The same in validation and test; None takes that of the current stage.
        batch_size: Rows of a batch, over all processes together.
        eval_batch_size: The same in validation and test; None takes `batch_size`.
        seed: Decides which rows are drawn, and their masks.
        num_workers: Processes that prepare batches ahead; 0 prepares them in the main process.
        cache_dir: Where token files are kept; None takes the user's cache folder.
    """

    def __init__(
        self,
        files: str | list[str],
        tokenizer: str,
        documents: Kind = "files",
        field: str = "text",
        mask_share: float = 0.15,
        whole_words: bool = False,
        segments: bool = False,
        split: Literal["fraction", "file"] = "fraction",
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        val_files: str | list[str] | None = None,
        test_files: str | list[str] | None = None,
        sequence_length: int = 512,
        eval_length: int | None = None,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(
            files,
            None,
            split,
            val_fraction,
            test_fraction,
            val_files,
            test_files,
            sequence_length=sequence_length,
            eval_length=eval_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            num_workers=num_workers,
            cache_dir=cache_dir,
        )
        if documents not in get_args(Kind):
            raise ValueError(f"documents must be {_listed(get_args(Kind))}, got {documents!r}")
        # First token, separator, and something in between.
        check_at_least(3, sequence_length=sequence_length)
        if eval_length is not None:
            check_at_least(3, eval_length=eval_length)
        self._masked = MaskedTokenizer(tokenizer)
        self.documents = documents
        self.field = field
        self.segments = segments
        self.mask_share = mask_share
        self.whole_words = whole_words
        self._packed: dict[str, Packed] = {}
        if not 0 < mask_share < 1:
            raise ValueError(f"mask_share must be > 0 and < 1, got {mask_share}")

    @property
    def tokenizer(self) -> MaskedTokenizer:
        """How text becomes tokens."""
        return self._masked

    @property
    def pad_id(self) -> int:
        """What rows are padded with."""
        return self._masked.pad_id

    def setup(self, stage: str | None = None) -> None:
        """Open the token files."""
        if self._packed:
            return
        folder = self._encoded()
        width = width_for(self.vocabulary_size)
        for split in json.loads((folder / "splits.json").read_text()):
            self._packed[split] = Packed(
                TokenFile(folder / f"{split}.tokens", width),
                TokenFile(folder / f"{split}.units", 4),
                TokenFile(folder / f"{split}.begins", 1),
            )

    def train_source(self, shard: Shard) -> Source:
        """Return the training batches of the current stage for one process.

        Raises:
            ValueError: The split is shorter than a row.
        """
        self.setup()
        rows = self._rows("train", self.sequence_length)
        if len(rows.packed.tokens) < rows.body:
            raise ValueError(
                f"sequence_length {self.sequence_length} is longer than the data: the training "
                f"split of {self._title} has {len(rows.packed.tokens)} tokens"
            )
        return MaskedWindows(rows, self.batch_size, self.seed, self.stage, shard)

    def eval_source(self, split: str, shard: Shard) -> Source | None:
        """Return the batches of split "val" or "test", or None if there is no such split.

        Raises:
            ValueError: The split is empty.
        """
        self.setup()
        if split not in self._packed:
            return None
        rows = self._rows(split, self.eval_length or self.sequence_length)
        if not len(rows.packed.tokens):
            raise ValueError(f"the {split} split of {self._title} has no document")
        return MaskedEvaluation(rows, self.eval_batch_size or self.batch_size, split, shard)

    def _rows(self, split: str, length: int) -> MaskedRows:
        tokenizer = self._masked
        masking = Masking(
            tokenizer.vocabulary_size,
            tokenizer.mask_id,
            tokenizer.special_ids,
            self.mask_share,
            self.whole_words,
        )
        return MaskedRows(
            self._packed[split],
            length,
            masking,
            tokenizer.pad_id,
            tokenizer.first_id,
            tokenizer.separator_id,
            self.segments,
        )

    def _layout(self) -> dict[str, Any]:
        return {"packed": [self.documents, self.field]}

    def _write(self, folder: Path, sections: Mapping[SplitName, Sequence[Section]]) -> None:
        tokenizer = self._masked
        code = _CODES[width_for(self.vocabulary_size)]
        end = array.array(code, [tokenizer.separator_id]).tobytes()
        nothing = array.array("I", [0]).tobytes()
        for split, parts in sections.items():
            with (
                (folder / f"{split}.tokens").open("wb") as tokens,
                (folder / f"{split}.units").open("wb") as units,
                (folder / f"{split}.begins").open("wb") as begins,
            ):
                for text in texts_in(parts, self.documents, self.field):
                    for part in tokenizer.encode_document(*text):
                        tokens.write(array.array(code, part.ids).tobytes())
                        units.write(part.units.tobytes())
                        begins.write(part.begins)
                    tokens.write(end)
                    units.write(nothing)
                    begins.write(b"\1")
        (folder / "splits.json").write_text(json.dumps(list(sections)))


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(map(repr, words[:-1]))} or {words[-1]!r}"
