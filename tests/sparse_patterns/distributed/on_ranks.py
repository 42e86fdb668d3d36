"""What is done on every process of a group; see `program.py`."""

import os
import time
from datetime import timedelta
from typing import Any

import torch
import torch._dynamo  # Imported once, before the processes are forked.
from torch import Tensor, distributed
from torch.utils.checkpoint import checkpoint

import sparse_patterns as sp
from sparse_patterns.distributed.counting import traffic_of
from sparse_patterns.distributed.layout import layout_of
from tests.sparse_patterns.distributed.cases import (
    EVERYTHING,
    WINDOW,
    cuts,
    drawn,
    kernels,
    marks,
    masked,
    presets,
)
from tests.sparse_patterns.distributed.comparing import Case, failures

RANDOM_EVERY_DAY, RANDOM = 4, 100


def compare_some() -> dict[str, list[str]]:
    """Compare cuts, kernels and a few random calls with one process."""
    cases = [*cuts(), *kernels(), *map(drawn, range(RANDOM_EVERY_DAY))]
    return {case.name: failures(case) for case in cases}


def compare_others() -> dict[str, list[str]]:
    """Compare presets and masks with one process."""
    return {case.name: failures(case) for case in [*presets(), *masked()]}


def compare_all() -> dict[str, list[str]]:
    """Compare all of these and many random calls with one process."""
    cases = [*presets(), *masked(), *cuts(), *kernels(), *map(drawn, range(RANDOM))]
    return {case.name: failures(case) for case in cases}


def wrapped() -> dict[str, list[str]]:
    """Compare calls inside of activation checkpoints and compiled functions with one process."""
    masks = {"global_mask": marks((0, 3), (1, 30))}
    case = Case("checkpoint", EVERYTHING, 41, (2, 1), batch=2, masks=masks)

    def checkpointed(*inputs: Tensor, **options: Any) -> Any:
        return checkpoint(sp.distributed.attention, *inputs, use_reentrant=False, **options)

    def compiled(*inputs: Tensor, **options: Any) -> Any:
        q, k, v, pattern = inputs

        @torch.compile(fullgraph=True, backend="aot_eager")
        def run(q: Tensor, k: Tensor, v: Tensor) -> Any:
            out, lse = sp.distributed.attention(q * 1, k, v, pattern, **options)
            return out * 1, lse

        return run(q, k, v)

    found = {"checkpoint": failures(case, checkpointed)}
    found["compile"] = failures(case, compiled)
    found["compile, near keys only"] = failures(Case("compile", WINDOW, 40), compiled)
    return found


def counted() -> dict[str, Any]:
    """Return for some calls what `traffic_of` says, and what was sent and received in truth."""
    ranks, rank = distributed.get_world_size(), distributed.get_rank()
    amounts = {"isend": 0, "irecv": 0}
    original = distributed.batch_isend_irecv

    def counting(operations: list[Any]) -> Any:
        for one in operations:
            amounts[one.op.__name__] += one.tensor.nbytes
        return original(operations)

    distributed.batch_isend_irecv = counting
    tokens = (2, 17)
    patterns = {
        "window": WINDOW,
        "sinks": (WINDOW | sp.Global((0, 1), rows=False)) & sp.Causal(),
        "global tokens": EVERYTHING,
        "summaries": sp.get("sparse-transformer-fixed", block=6, columns=2),
        "far": sp.Causal() | sp.Global((30,)),
    }
    found = {}
    for name, pattern in patterns.items():
        own = marks(*((0, token) for token in tokens), length=50)[:1]
        reads = name == "global tokens"
        case = Case(name, pattern, 50, (3, 2), 4, 2, masks={"global_mask": own} if reads else {})
        lengths = tuple(case.lengths(ranks))
        start = sum(lengths[:rank])
        stretch = slice(start, start + lengths[rank])
        q, k, v, grad, _ = (x[:, :, stretch] for x in case.inputs())
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        given = {mask: x[:, stretch] for mask, x in case.masks.items()}
        totals = []
        amounts.update(isend=0, irecv=0)
        out = sp.distributed.attention(*inputs, pattern, **given)
        totals += [amounts["isend"], amounts["irecv"]]
        amounts.update(isend=0, irecv=0)
        out.backward(grad)
        totals += [amounts["isend"], amounts["irecv"]]
        every: list[Any] = [None] * ranks
        distributed.all_gather_object(every, totals)
        layout = layout_of(pattern, 4, 0, 1, lengths)
        said = traffic_of(layout, 4, 2, case.head_dim, 8, tokens if reads else ())
        names = ("sent", "received", "backward_sent", "backward_received")
        found[name] = {
            "said": [list(getattr(said, one)) for one in names],
            "counted": [list(column) for column in zip(*every, strict=True)],
        }
    distributed.batch_isend_irecv = original
    return found


def _message(*arguments: Any, **options: Any) -> str:
    try:
        sp.distributed.attention(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def refused() -> dict[str, list[str]]:
    """Return the errors of all ranks for calls that do not fit together."""
    rank = distributed.get_rank()
    first = rank == 0
    x = torch.ones(1, 2, 4 + rank, 8)
    grad = x.clone().requires_grad_(first)
    calls: dict[str, Any] = {
        "patterns": lambda: _message(x, x, x, WINDOW if first else sp.Causal()),
        "layers": lambda: _message(x, x, x, WINDOW, layer=rank, layers=2),
        "heads": lambda: _message(*[x if first else x[:, :1]] * 3, WINDOW),
        "types": lambda: _message(*[x if first else x.double()] * 3, WINDOW),
        "gradients": lambda: _message(grad, x, x, WINDOW),
        "a cache": lambda: _message(
            x, x if first else x[:, :, :3], x if first else x[:, :, :3], WINDOW
        ),
        "dropout": lambda: _message(x, x, x, WINDOW, dropout_p=0.5),
        "no pattern": lambda: _message(x, x, x, WINDOW if first else "window"),
        "kernel": lambda: _message(x, x, x, WINDOW, kernel="flex"),
        "after all": lambda: _message(x, x, x, WINDOW),
    }
    found = {}
    for name, call in calls.items():
        every: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(every, call())
        found[name] = every
    return found


def left_alone() -> str:
    """Return the error of rank 0 when the other process dies between two calls."""
    x = torch.ones(1, 2, 6, 8)
    sp.distributed.attention(x, x, x, WINDOW)
    if distributed.get_rank():
        os._exit(0)
    time.sleep(0.5)
    return _message(x, x, x, WINDOW)


def kept_waiting() -> str:
    """Return the error of rank 0 when the other process does not make the call."""
    group = distributed.new_group(timeout=timedelta(seconds=20))
    distributed.barrier()
    x = torch.ones(1, 2, 6, 8)
    sp.distributed.attention(x, x, x, WINDOW, group)
    if distributed.get_rank():
        time.sleep(23)
        return ""
    return _message(x, x, x, WINDOW, group)
