"""The head of a task, from a checkpoint of `transformers` or of ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lit_modules.pretrained.files import WeightsError, read
from lit_modules.pretrained.names import sort

__all__ = ["load_head"]


@torch.no_grad()
def load_head(module: nn.Module, parts: Sequence[str], path: str) -> list[str]:
    """Fill parts of a module by their names in a checkpoint: all of their parameters, or none.

    Args:
        module: The whole model.
        parts: Names of its children, such as `classifier`.
        path: A folder or a file of weights.

    Returns:
        The names of the tensors.

    Raises:
        WeightsError: A parameter is missing or has another shape.
    """
    found = sort(read(path).state, path).heads
    wanted = {
        f"{part}.{name}": parameter
        for part in parts
        for name, parameter in module.get_submodule(part).named_parameters()
    }
    problems = [
        f"{name} is missing"
        if name not in found
        else f"{name} is {tuple(found[name].shape)}, the head needs {tuple(parameter.shape)}"
        for name, parameter in wanted.items()
        if name not in found or found[name].shape != parameter.shape
    ]
    if problems:
        raise WeightsError(
            f"the head of {path} does not fit (pretrained_head=True): {problems[0]}"
            + (f", and {len(problems) - 1} more" if len(problems) > 1 else "")
        )
    for name, parameter in wanted.items():
        parameter.copy_(found[name])
    return list(wanted)
