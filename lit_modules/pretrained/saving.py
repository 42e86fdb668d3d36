"""From an encoder to a folder that `transformers` loads, tokenizer included."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_modules.nn.encoder.encoder import Encoder
from lit_modules.pretrained.files import CONFIG, SAFETENSORS, read_json, write
from sparse_patterns.config.files import whole_file

__all__ = ["copy_tokenizer", "save", "save_encoder"]

# Everything a tokenizer of `transformers` is read from.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
)


def save_encoder(encoder: Encoder, folder: str | os.PathLike[str]) -> None:
    """Write `config.json` and `model.safetensors`, and the tokenizer of where it was loaded from.

    `transformers` loads the folder as the model that `config.model_type` names, and `load_encoder`
    gives the same encoder back. In the tokenizer's settings the longest text becomes that of the
    encoder.

    Args:
        encoder: What to save.
        folder: Made if it is not there; files of these names are replaced.

    Warns:
        UserWarning: `transformers` has no such pattern, so that it would compute other numbers.
    """
    save(encoder, encoder.state_dict(), None, folder)


def save(
    encoder: Encoder,
    state: Mapping[str, Tensor],
    architecture: str | None,
    folder: str | os.PathLike[str],
) -> None:
    """Write an encoder with or without a head; see `save_encoder`.

    Args:
        encoder: Gives the configuration, and the folder of the tokenizer.
        state: All tensors, by the names of `transformers`.
        architecture: Its class; that of the encoder alone by default.
        folder: Made if it is not there; files of these names are replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu() for name, tensor in state.items()}
    # Tensors that share storage are refused by the format.
    write(
        {name: tensor.contiguous().clone() for name, tensor in state.items()}, folder / SAFETENSORS
    )
    dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
    config = {**encoder.config.to_huggingface(), "dtype": dtype}
    if architecture is not None:
        config["architectures"] = [architecture]
    _write_json(config, folder / CONFIG)
    source = getattr(encoder.report, "folder", None)
    if source is not None:
        copy_tokenizer(Path(source), folder, encoder.config.max_length)
    differences = encoder.config.differences()
    if differences:
        warnings.warn(
            f"transformers would load {folder} and compute something else: "
            f"{'; '.join(differences)}. load_encoder gives this encoder back.",
            stacklevel=2,
        )


def copy_tokenizer(source: Path, folder: Path, max_length: int) -> None:
    """Copy the tokenizer in a folder to another one; its longest text becomes `max_length`."""
    there = [name for name in _TOKENIZER_FILES if (source / name).is_file()]
    for name in there:
        if not (folder / name).exists() or not (source / name).samefile(folder / name):
            shutil.copyfile(source / name, folder / name)
    settings = folder / "tokenizer_config.json"
    if there:
        # Without a length `transformers` cuts nothing, and a text that is too long fails later.
        content = read_json(settings) if settings.is_file() else {}
        # Written only where it changes something, since the file is the user's.
        if content.get("model_max_length") != max_length:
            _write_json({**content, "model_max_length": max_length}, settings)
    fast = folder / "tokenizer.json"
    if fast.is_file():
        content = read_json(fast)
        truncation, padding = content.get("truncation"), content.get("padding")
        changed = dict(content)
        if truncation:
            changed["truncation"] = {**truncation, "max_length": max_length}
        # A strategy that is an object fixes the length of every text.
        if isinstance(padding, dict) and isinstance(padding.get("strategy"), dict):
            changed["padding"] = {**padding, "strategy": "BatchLongest"}
        if changed != content:
            _write_json(changed, fast)


def _write_json(content: dict[str, Any], path: Path) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
