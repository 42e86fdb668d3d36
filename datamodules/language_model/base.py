"""What all language-model data sets share: stages, position, sharding, and the loaders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from datamodules.loading.resumable import ResumableData, check_at_least

__all__ = ["LanguageModelData", "check_at_least"]


class LanguageModelData(ResumableData):
    """Batches for a language model, see `datamodules.language_model.batch.LanguageModelBatch`.

    Args:
        sequence_length: Tokens of a training sequence.
        batch_size: Sequences of a batch, over all processes together.
        eval_batch_size: The same in validation and test; None takes `batch_size`.
        seed: Decides which sequences are drawn.
        num_workers: Processes that prepare batches ahead; 0 prepares them in the main process,
            which costs little.
    """

    def __init__(
        self,
        sequence_length: int = 1024,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        check_at_least(1, sequence_length=sequence_length)
        super().__init__(batch_size, eval_batch_size, seed, num_workers)
        self.sequence_length = sequence_length

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """How many different tokens there are."""

    @property
    def unit(self) -> str:
        """What a text is measured in: "byte", "character" or "token"."""
        return "token"

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""

    def set_stage(
        self,
        stage: int,
        sequence_length: int,
        batch_size: int,
        batches_done: int = 0,
        batches: int | None = None,
    ) -> None:
        """Change what the next `train_dataloader` yields.

        Args:
            stage: The stage, counted from 0; each draws sequences of its own.
            sequence_length: Tokens of a training sequence.
            batch_size: Sequences of a batch, over all processes together.
            batches_done: Batches of the stage that are done.
            batches: Batches of the whole stage; None has no end, an epoch being one pass.

        Raises:
            ValueError: A number is out of range.
        """
        check_at_least(0, stage=stage, batches_done=batches_done)
        check_at_least(1, sequence_length=sequence_length, batch_size=batch_size)
        if batches is not None:
            check_at_least(1, batches=batches)
        self.stage = stage
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.batches = batches
        self._go_to(batches_done)
