"""What all tasks share: files, tokenizer, encoding in parallel into a cache, batches by number.

A task of your own defines four things, and inherits everything else::

    @datamodules.register("my-task")
    class MyTask(TaskData):
        task = "classification"
        official = {"train": ("train.jsonl",), "val": ("dev.jsonl",), "test": ("test.jsonl",)}

        def read(self, document, split):      # a file -> records
        def encode(self, record, split):      # a record -> rows of tokens; a pure function
        def labels(self, examples):           # examples -> what the batch holds besides the tokens
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.files.splitting import SplitName
from datamodules.loading.shards import Shard, Source
from datamodules.tasks import global_tokens as rules
from datamodules.tasks.batch import PADDING, TaskBatch
from datamodules.tasks.encoding import EncodedData
from datamodules.tasks.rows import Example
from datamodules.tasks.sampling import EvaluationExamples, ShuffledExamples

__all__ = ["TaskData", "padded"]


class TaskData(EncodedData):
    """Base of the tasks: examples made of rows of tokens, with labels.

    Records are read and checked (`datamodules.tasks.records`), encoded once by several processes
    and kept on disk (`datamodules.tasks.encoding`). Training runs through the examples in an order
    that is a function of seed and pass; evaluation has each example once, over all processes
    together.

    Attributes:
        task: Which head fits: "classification", "extractive-qa", "candidate-choice", "multihop-qa"
            or "coreference", or a word of your own.
        global_rule: The rule for global tokens, where `global_tokens` names no other.

    Args:
        global_tokens: Name of a rule for global tokens, or {name: ..., its fields}; None takes the
            task's own.
        shuffle: Whether training sees the examples in a new order each pass.
        predict_split: What `predict` runs on: "train", "val" or "test"; None takes the test split,
            or validation where there is none.
        **kwargs: As in `EncodedData`: tokenizer, max_length, long, path, batch_size, and more.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    task: ClassVar[str]
    global_rule: ClassVar[str] = "first"

    def __init__(
        self,
        *,
        global_tokens: str | dict[str, Any] | None = None,
        shuffle: bool = True,
        predict_split: SplitName | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if predict_split not in (None, "train", "val", "test"):
            raise ValueError(f"predict_split must be train, val or test, got {predict_split!r}")
        self.rule = _rule(global_tokens or self.global_rule)
        self.shuffle = shuffle
        self.predict_split = predict_split

    @abstractmethod
    def labels(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return what a batch of these examples holds besides `TaskBatch`: tensors and lists.

        `padded` helps: rows of all examples one after the other are the rows of the batch.
        """

    def submission(self, predictions: Iterable[Mapping[str, Any]]) -> str:
        """Return the content of the official submission file.

        Args:
            predictions: One mapping for each example, as the task's `predict_step` returns them.
        """
        raise NotImplementedError(f"{type(self).__name__} has no official submission format")

    def train_source(self, shard: Shard) -> Source:
        """Return the training batches of the current stage for one process.

        Raises:
            ValueError: There is nothing to train on.
        """
        examples = self.examples("train")
        if not examples:
            raise ValueError(f"{type(self).__name__} has no training examples")
        return ShuffledExamples(
            examples, self._alone().collate, self.batch_size, self.seed, self.stage, shard,
            self.shuffle,
        )  # fmt: skip

    def eval_source(self, split: SplitName, shard: Shard) -> Source | None:
        """Return the batches of a split, each example once; None if it has no example."""
        examples = self.examples(split)
        if not examples:
            return None
        rows = self.eval_batch_size or self.batch_size
        return EvaluationExamples(examples, self._alone().collate, rows, shard)

    def predict_source(self, shard: Shard) -> Source | None:
        """Return the batches to predict on: `predict_split`, else test, else validation."""
        self.setup()
        split = self.predict_split or ("test" if self.examples("test") else "val")
        return self.eval_source(split, shard)

    def collate(self, examples: Sequence[Example]) -> Any:
        """Return the batch of some examples: see `datamodules.tasks.batch`."""
        rows = [row for example in examples for row in example.rows]
        input_ids = padded([row.tokens.ids for row in rows], self.pad_id)
        roles = padded([row.tokens.roles for row in rows], PADDING)
        key_mask = roles != PADDING
        numbers = [i for i, example in enumerate(examples) for _ in example.rows]
        global_mask = torch.zeros_like(key_mask)
        for row, mask in zip(rows, global_mask, strict=True):
            n = len(row.tokens)
            mask[:n] = self.rule(torch.tensor(row.tokens.roles))
        batch = TaskBatch(
            input_ids=input_ids,
            key_mask=key_mask,
            global_mask=global_mask,
            example=torch.tensor(numbers),
            ids=[example.id for example in examples],
        )
        return {**batch, **self.labels(examples)}


def padded(rows: Sequence[Sequence[int]], fill: int = PADDING) -> Tensor:
    """Return rows of different lengths as int64 (rows, longest), filled at the end.

    There is at least one column, so that no model need think of none.
    """
    longest = max(map(len, rows), default=0) or 1
    made = torch.full((len(rows), longest), fill, dtype=torch.int64)
    for row, values in zip(made, rows, strict=True):
        row[: len(values)] = torch.tensor(values, dtype=torch.int64)
    return made


def _rule(wanted: str | dict[str, Any]) -> rules.Rule:
    """Return a rule by its name, or by name and fields.

    Raises:
        ValueError: There is no such rule.
    """
    if isinstance(wanted, str):
        return rules.get(wanted)
    if "name" not in wanted:
        raise ValueError(f"global_tokens needs a name: {{name: ..., fields}}, got {wanted!r}")
    fields = dict(wanted)
    return rules.get(fields.pop("name"), **fields)
