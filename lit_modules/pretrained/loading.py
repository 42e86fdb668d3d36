"""From a checkpoint to an encoder: every parameter filled, or an error that says which is not."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from lit_modules.pretrained.files import WeightsError, read, read_json
from lit_modules.pretrained.names import sort
from lit_modules.pretrained.reports import LoadReport

__all__ = ["ConfigLike", "assemble", "load_encoder", "load_parts"]

ConfigLike = EncoderConfig | Mapping[str, Any] | str | os.PathLike[str]


def load_encoder(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any],
    config: ConfigLike | Any = None,
) -> Encoder:
    """Load a BERT, RoBERTa or Longformer encoder, with any pattern.

    Weights are converted to float32 and checked: each parameter of the encoder comes from the file,
    or nothing is loaded. What the file has beyond the encoder (heads of tasks) is left over. The
    encoder has a pooler where the file has one.

    Args:
        path_or_state_dict: A folder, a `.safetensors`, `.bin`, `.pt` or `.ckpt` file, or a state
            dict, with any prefix before the names. Only tensors are read; code never runs.
        config: An `EncoderConfig`, the content or the path of a `config.json`, or a config of
            `transformers`; by default the `config.json` beside the weights.

    Returns:
        The encoder, in evaluation mode; `encoder.report` says what matched and what is left over.

    Raises:
        FileNotFoundError: There is no such file or folder.
        WeightsError: The file is damaged, holds code, or does not fit the configuration. A
            `ValueError`.
    """
    return load_parts(path_or_state_dict, config)[0]


def load_parts(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any],
    config: ConfigLike | Any = None,
) -> tuple[Encoder, dict[str, Tensor]]:
    """Load an encoder as `load_encoder` does; return what is left over, too, by its names."""
    source = read(path_or_state_dict)
    found = sort(source.state, source.name)
    resolved = _config(config, source.config, source.name)
    pooler = any(name.startswith("pooler.") for name in found.encoder)
    resolved = resolved.replace(pooler=pooler)
    encoder = assemble(resolved, found.encoder, source.name).eval()
    encoder.report = LoadReport(
        source=source.name,
        matched=tuple(encoder.state_dict()),
        missing=() if pooler else ("pooler",),
        left_over=tuple(found.heads),
        buffers=found.buffers,
        prefix=found.prefix,
        renamed=found.renamed,
        folder=source.folder,
    )
    return encoder, found.heads


def assemble(
    config: EncoderConfig, state: Mapping[str, Tensor], source: str, **options: Any
) -> Encoder:
    """Make an encoder of copies of tensors, drawing no weights.

    Args:
        config: Sizes and pattern.
        state: A tensor for each parameter, by the encoder's names.
        source: Where they come from, for errors.
        **options: Further arguments of `Encoder`.

    Raises:
        WeightsError: A tensor is missing, left over, of another shape, or not finite.
    """
    # Without storage, so that a parameter that is not filled cannot be used by mistake.
    with torch.device("meta"):
        encoder = Encoder(config, **options)
    wanted = encoder.state_dict()
    _check_fit(config, wanted, state, source)
    filled = {name: _copied(name, state[name], source) for name in wanted}
    encoder.load_state_dict(filled, assign=True)
    return encoder


def _copied(name: str, tensor: Tensor, source: str) -> Tensor:
    if not tensor.is_floating_point():
        raise WeightsError(f"{name} of {source} must be of a float type, got {tensor.dtype}")
    copy = tensor.detach().to(torch.float32, copy=True).contiguous()
    if not bool(copy.isfinite().all()):
        raise WeightsError(f"{name} of {source} has values that are not finite")
    return copy


def _config(given: Any, beside: dict[str, Any] | None, source: str) -> EncoderConfig:
    if isinstance(given, EncoderConfig):
        return given
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        given = read_json(path / "config.json" if path.is_dir() else path)
    elif given is not None and hasattr(given, "to_dict"):
        given = given.to_dict()
    content = beside if given is None else given
    if content is None:
        raise WeightsError(
            f"{source} has no config.json beside it; give config=, since weights do not tell the "
            "number of heads"
        )
    if not isinstance(content, Mapping):
        raise TypeError(
            "config must be an EncoderConfig, a mapping or the path of a config.json, "
            f"got {type(given).__name__}"
        )
    return EncoderConfig.from_huggingface(content)


def _check_fit(
    config: EncoderConfig, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str
) -> None:
    missing = [name for name in wanted if name not in state]
    extra = [name for name in state if name not in wanted]
    differing = [
        f"{name} is {tuple(state[name].shape)}, the configuration needs {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = []
    if len(missing) == len(wanted):
        problems.append("nothing matches")
    elif missing:
        problems.append(f"without weights: {_some(missing)}")
    if extra:
        problems.append(f"without a place: {_some(extra)}")
    if differing:
        problems.append(f"of another shape: {_some(differing)}")
    if not problems:
        return
    layers = {match[1] for name in state if (match := re.match(r"encoder\.layer\.(\d+)\.", name))}
    if layers and len(layers) != config.layers:
        problems.append(f"the weights have {len(layers)} layers, the configuration {config.layers}")
    if missing and all("_global." in name for name in missing):
        problems.append("load it without global projections and use make_long, which copies them")
    if extra and all("_global." in name for name in extra):
        problems.append("the weights are a Longformer's, the configuration is not")
    raise WeightsError(
        f"the weights of {source} do not fit the configuration: {'; '.join(problems)}"
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
