"""Lightning strategies that cut each sequence among processes: context parallelism.

`Trainer(strategy="context-parallel")` and `--trainer.strategy context-parallel`. The processes form
a grid of data x context: those of one context group read the same batch, and each computes its
stretch of the sequences. Parameters are there on each process (`context-parallel`) or sharded over
all of them by FSDP2 (`context-parallel-fsdp`).

A module averages its gradients over all processes, as for data parallelism: its loss is that of its
own stretch, or of the whole from gathered tokens, times the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import blake2b
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    StrategyRegistry,
)
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed
from torch.utils._pytree import tree_flatten_with_path

from sparse_patterns.distributed.context.split import Split, split_over
from sparse_patterns.distributed.exchange import told

__all__ = [
    "ContextParallelStrategy",
    "ShardedContextParallelStrategy",
    "check_module",
    "digest",
]

Size = int | Literal["auto"]

TIMEOUT = timedelta(minutes=30)
"""That of `torch.distributed`."""


class _Context(ParallelStrategy):
    """The grid of processes, whole batches for each context group, and the split in each step."""

    _sizes: tuple[Size, Size]
    _timeout: timedelta | None
    _split: Split | None = None

    def _check_sizes(self, data: Size, context: Size) -> None:
        for name, size in (("data_parallel_size", data), ("context_parallel_size", context)):
            if size != "auto" and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
                raise ValueError(f'{name} must be an int >= 1 or "auto", got {size!r}')
        self._sizes = (data, context)

    @property
    def data_parallel_size(self) -> int:
        """How many batches are trained on at the same time."""
        return self._grid()[0]

    @property
    def context_parallel_size(self) -> int:
        """How many processes share a sequence."""
        return self._grid()[1]

    def _grid(self) -> tuple[int, int]:
        (given, wanted), world = self._sizes, self.world_size
        if isinstance(given, int):
            data = given
        else:
            data = max(1, world // wanted) if isinstance(wanted, int) else 1
        context = wanted if isinstance(wanted, int) else max(1, world // data)
        if data * context != world:
            raise ValueError(
                f"data_parallel_size x context_parallel_size must be the number of processes "
                f"({world}), got {given} x {wanted}"
            )
        return data, context

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """The share of the data of this process: that of its context group."""
        data, context = self._grid()
        return {"num_replicas": data, "rank": self.global_rank // context}

    def setup_environment(self) -> None:
        """Start the processes, and the group of those that share a sequence with this one.

        Raises:
            ValueError: The sizes do not fit the number of processes.
        """
        super().setup_environment()
        _, context = self._grid()
        if context > 1:
            # A group of its own, also where it is all processes: the gradients of parameters travel
            # at the same time.
            group, _ = distributed.new_subgroups(context, timeout=self._timeout)
            self._split = Split(group)

    def setup(self, trainer: Trainer) -> None:
        """Refuse a model that cannot be cut, then set up as usual.

        Raises:
            TypeError: The module is not made for it.
            ValueError: A part of the model cannot run where sequences are cut.
        """
        module = self.lightning_module
        assert module is not None
        if self._split is not None:
            check_module(module, trainer.state.fn == TrainerFn.FITTING)
        super().setup(trainer)

    # ---------------------------------------------------------------- batches

    def batch_to_device(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        """Move a batch, once all processes of a context group are seen to have the same one.

        Raises:
            ValueError: They have different ones.
        """
        if self._split is not None:
            _check_same(batch, self._split, self.root_device)
        return super().batch_to_device(batch, device, dataloader_idx)

    # ---------------------------------------------------------------- steps

    @contextmanager
    def _cut(self) -> Iterator[None]:
        if self._split is None:
            yield
            return
        with split_over(self._split):
            yield

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step of the module, sequences cut."""
        with self._cut():
            return super().training_step(*args, **kwargs)

    def backward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the backward pass, in which checkpointed layers are computed again."""
        with self._cut():
            return super().backward(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step of the module, sequences cut."""
        with self._cut():
            return super().validation_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step of the module, sequences cut."""
        with self._cut():
            return super().test_step(*args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step of the module, sequences cut."""
        with self._cut():
            return super().predict_step(*args, **kwargs)


class ContextParallelStrategy(_Context, DDPStrategy):
    """Each sequence is cut among processes, which all have the parameters.

    Checkpoints are those of one process, and resume on any number of them.

    Args:
        data_parallel_size: Context groups, each with a batch of its own; "auto" takes what
            `context_parallel_size` leaves.
        context_parallel_size: Processes that share a sequence: neighbours, in one machine where
            they fit; "auto" takes what `data_parallel_size` leaves.
        timeout: How long a process waits for another one before it raises an error.
        **ddp: Further arguments of `DDPStrategy`.

    Raises:
        ValueError: A size is no number of processes.
    """

    def __init__(
        self,
        data_parallel_size: Size = "auto",
        context_parallel_size: Size = "auto",
        timeout: timedelta | None = TIMEOUT,
        **ddp: Any,
    ) -> None:
        DDPStrategy.__init__(self, timeout=timeout, **ddp)
        self._check_sizes(data_parallel_size, context_parallel_size)


class ShardedContextParallelStrategy(_Context, ModelParallelStrategy):
    """Each sequence is cut among processes, and parameters are sharded over all of them (FSDP2).

    The mesh that `configure_model` shards over, `device_mesh["data_parallel"]`, holds all
    processes: those of a context group, too, have different shards.

    Args:
        data_parallel_size: As in `ContextParallelStrategy`.
        context_parallel_size: As in `ContextParallelStrategy`.
        save_distributed_checkpoint: Save a folder with the shards of each process; by default one
            file, which is that of one process.
        timeout: As in `ContextParallelStrategy`.

    Raises:
        ValueError: As `ContextParallelStrategy`.
    """

    def __init__(
        self,
        data_parallel_size: Size = "auto",
        context_parallel_size: Size = "auto",
        save_distributed_checkpoint: bool = False,
        timeout: timedelta | None = TIMEOUT,
    ) -> None:
        ModelParallelStrategy.__init__(
            self,
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            timeout=timeout,
        )
        self._check_sizes(data_parallel_size, context_parallel_size)

    def setup_environment(self) -> None:
        """Start the processes, their mesh, and the group of those that share a sequence."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def check_module(module: LightningModule, training: bool) -> None:
    """Refuse a model that cannot run where sequences are cut among processes.

    Raises:
        TypeError: The module does not say that it cuts its batches.
        ValueError: Parts of the model cannot; the message names them.
    """
    if not getattr(module, "splits_sequences", False):
        raise TypeError(
            f"{type(module).__name__} does not say that it can train where sequences are cut among "
            "processes; a module that cuts its batches itself, by `cut` of "
            "sparse_patterns.distributed.current_split(), has the attribute splits_sequences=True"
        )
    reasons: dict[str, str] = {}
    for name, part in module.named_modules():
        told_reasons = getattr(part, "why_not_split", None)
        for reason in told_reasons(training) if callable(told_reasons) else ():
            reasons.setdefault(reason, name)
    if reasons:
        shown = "; ".join(f"{why} (in {name or 'the model'})" for why, name in reasons.items())
        raise ValueError(f"sequences cannot be cut among processes with {shown}")


def _check_same(batch: Any, split: Split, device: torch.device) -> None:
    """Refuse batches that differ among the processes of a group."""
    own = torch.tensor(digest(batch), device=device)
    every = [torch.empty_like(own) for _ in range(split.ranks)]
    with told("compare its batch with those of the others", split.group):
        distributed.all_gather(every, own, group=split.group)
    digests = torch.stack(every).tolist()
    if len(set(digests)) > 1:
        other = next(rank for rank, one in enumerate(digests) if one != digests[0])
        raise ValueError(
            "the processes that share a sequence must read the same batch, but ranks 0 and "
            f"{other} of {split.ranks} have different ones: shuffle and draw by one seed, and take "
            "the share of trainer.distributed_sampler_kwargs"
        )


def digest(batch: Any) -> int:
    """Return a number that tells batches apart: of all tensors, texts and numbers in one."""
    found = blake2b(digest_size=7)
    for path, leaf in tree_flatten_with_path(batch)[0]:
        found.update(repr(path).encode())
        if isinstance(leaf, Tensor):
            found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            plain = leaf.detach().cpu().contiguous().reshape(-1)
            found.update(plain.view(torch.uint8).numpy().data if plain.numel() else b"")
        elif isinstance(leaf, str | bytes | int | float | None):
            found.update(repr(leaf).encode())
    return int.from_bytes(found.digest(), "big")


for _name, _strategy, _about in (
    ("context-parallel", ContextParallelStrategy, "sequences cut among processes"),
    ("context-parallel-fsdp", ShardedContextParallelStrategy, "likewise, parameters sharded"),
):
    StrategyRegistry.register(_name, _strategy, description=_about)
