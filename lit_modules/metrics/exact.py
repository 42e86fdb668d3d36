"""Metrics whose sums stay exact when the module around them is cast to a half type.

Lightning's `bf16-true` and `16-true` cast a whole module, with the metrics inside. A sum in
bfloat16 stops growing at 256 times what is added to it, one in float16 is infinite beyond 65,504.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_modules.nn.precision import figure_dtype, sum_dtype

__all__ = ["ExactMean", "ExactMetric", "Metrics", "in_real_memory", "leave_inference_mode"]

Change = Callable[[Tensor], Tensor]


class ExactMetric(Metric):
    """A metric whose states move with the module around it, and keep their types.

    Sums are float64. On a device without float64 they are float32, and a second state `NAME_rest`
    collects what each addition rounds away.
    """

    full_state_update = False
    is_differentiable = False

    def add_sum(self, name: str, shape: Sequence[int] = ()) -> None:
        """Add a state that sums floats, over processes too.

        Args:
            name: Of the attribute.
            shape: Of the sum.
        """
        with in_real_memory():
            zeros = torch.zeros(tuple(shape), dtype=sum_dtype(torch.get_default_device()))
        self.add_state(name, zeros, dist_reduce_fx="sum")
        self.add_state(f"{name}_rest", zeros.clone(), dist_reduce_fx="sum")

    def add_count(self, name: str) -> None:
        """Add a state that counts, int64, over processes too."""
        with in_real_memory():
            zero = torch.zeros((), dtype=torch.int64)
        self.add_state(name, zero, dist_reduce_fx="sum")

    def add(self, name: str, value: Tensor | int) -> None:
        """Add to a sum or a count.

        What is there is replaced, not changed in place: it may have been made in inference mode,
        which validation and test run in, and then may not be changed outside of it.
        """
        total: Tensor = getattr(self, name)
        value = torch.as_tensor(value).detach()
        if total.dtype == torch.float64 or not total.is_floating_point():
            setattr(self, name, total + value.to(total.device, total.dtype))
            return
        # The error of a rounded sum is itself a float (Knuth, The Art of Computer Programming,
        # volume 2, section 4.2.2, theorem B).
        part = value.to(total.dtype)
        rest = (value - part.to(value.dtype)).to(total.device, total.dtype)
        part = part.to(total.device)
        new = total + part
        added = new - total
        error = (total - (new - added)) + (part - added) + rest
        setattr(self, name, new)
        kept: Tensor = getattr(self, f"{name}_rest")
        setattr(self, f"{name}_rest", kept + torch.where(new.isfinite(), error, 0.0))

    def total(self, name: str) -> Tensor:
        """Return a sum as float64; from a device without float64 it comes to the CPU."""
        total, rest = getattr(self, name), getattr(self, f"{name}_rest")
        if sum_dtype(total.device) != torch.float64:
            total, rest = total.cpu(), rest.cpu()
        exact: Tensor = total.double() + rest.double()
        return exact

    def _apply(self, fn: Change, exclude_state: Sequence[str] = "") -> nn.Module:
        return super()._apply(_keeping_type(fn), exclude_state)


class ExactMean(ExactMetric):
    """The mean of numbers, however they are cut into batches and processes."""

    sum: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("sum")
        self.add_count("count")

    def update(self, values: Tensor) -> None:
        """Add numbers, of any shape."""
        self.add("sum", values.detach().sum(dtype=sum_dtype(values.device)))
        self.add("count", values.numel())

    def compute(self) -> Tensor:
        """Return the mean so far; NaN before anything was added."""
        total = self.total("sum")
        return (total / self.count.to(total.device)).to(figure_dtype())


class Metrics(nn.ModuleDict):
    """Metrics by name, those of torchmetrics too, exact whatever the module around is cast to.

    States of floats become float64 when a metric is put in (float32 on a device without float64),
    and casts of a module that holds this one leave all states as they are.
    """

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Put in a metric, or a module that holds some."""
        for metric in _metrics_of(module):
            _widen(metric)
        super().add_module(name, module)

    def _apply(self, fn: Change, recurse: bool = True) -> Metrics:
        super()._apply(_keeping_type(fn), recurse)
        return self


def in_real_memory() -> AbstractContextManager[Any]:
    """Return a context in which states have values under `torch.device("meta")` too.

    No checkpoint holds the states of metrics, so nothing would give them their values later.
    """
    if torch.get_default_device().type == "meta":
        return torch.device("cpu")
    return nullcontext()


def leave_inference_mode(module: nn.Module) -> None:
    """Make states that were left by inference mode such as may be changed in place outside of it.

    Many metrics of torchmetrics add in place.
    """
    if torch.is_inference_mode_enabled():
        return
    for metric in _metrics_of(module):
        for name in metric._defaults:
            state = getattr(metric, name)
            if isinstance(state, Tensor) and state.is_inference():
                setattr(metric, name, state.clone())


def _metrics_of(module: nn.Module | None) -> Iterator[Metric]:
    if module is not None:
        yield from (part for part in module.modules() if isinstance(part, Metric))


def _keeping_type(fn: Change) -> Change:
    """Return what moves a tensor to where `fn` moves it, whatever else `fn` does."""

    def move(tensor: Tensor) -> Tensor:
        start = torch.device("cpu") if tensor.is_meta else tensor.device
        device = fn(torch.zeros((), dtype=torch.float32, device=start)).device
        dtype = sum_dtype(device) if tensor.dtype == torch.float64 else tensor.dtype
        if tensor.is_meta:
            return torch.zeros(tensor.shape, dtype=dtype, device=device)
        return tensor.to(device, dtype)

    return move


def _widen(metric: Metric) -> None:
    def wide(value: Any) -> Any:
        if isinstance(value, list):
            return [wide(one) for one in value]
        floats = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(sum_dtype(value.device)) if floats else value

    for name, default in metric._defaults.items():
        metric._defaults[name] = wide(default)
        setattr(metric, name, wide(getattr(metric, name)))
    # What torchmetrics' aggregators cast their input to.
    metric._dtype = sum_dtype(metric.device)
