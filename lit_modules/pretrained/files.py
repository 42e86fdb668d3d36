"""Files of weights: a folder, `.safetensors`, `.bin`, `.pt`, `.ckpt`. Code in them never runs."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import reprlib
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_patterns.config.files import whole_file

__all__ = ["CONFIG", "SAFETENSORS", "Source", "WeightsError", "read", "read_json", "write"]

CONFIG, SAFETENSORS = "config.json", "model.safetensors"

# In the order in which they are looked for in a folder; the others are taken if they are alone.
_NAMES = (
    SAFETENSORS,
    f"{SAFETENSORS}.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")

# What torch's files that are no zip archives start with.
_MAGIC = torch.serialization.MAGIC_NUMBER

# What torch's error says about a file with more than tensors and plain data.
_CODE = ("Unsupported global", "Unsupported class", "GLOBAL", "call reduce", "instantiate")


class WeightsError(ValueError):
    """Weights cannot be read or do not fit; the message is meant for the user."""


@dataclass(frozen=True)
class Source:
    """What was read.

    Attributes:
        name: The source, for messages.
        state: Tensors by their names in the file.
        config: Content of the `config.json` beside them, None where there is none.
        folder: Their folder, None for a state dict.
    """

    name: str
    state: dict[str, Tensor]
    config: dict[str, Any] | None = None
    folder: Path | None = None


def read(source: str | os.PathLike[str] | Mapping[str, Any]) -> Source:
    """Read a folder, a file, or take a state dict.

    Raises:
        FileNotFoundError: There is no such file or folder.
        WeightsError: It holds code, is damaged, or has no weights.
    """
    if isinstance(source, Mapping):
        return Source("the state dict", _tensors(source, "the state dict"))
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"{source}: no such file or folder (weights are read from the disk, not by a name "
            "on a hub)"
        )
    folder = path if path.is_dir() else path.parent
    file = _file_in(path) if path.is_dir() else path
    config = folder / CONFIG
    return Source(
        str(path),
        _read_sharded(file) if file.suffix == ".json" else _read_file(file),
        read_json(config) if config.is_file() else None,
        folder,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file.

    Raises:
        WeightsError: It is not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} must hold an object, got {type(content).__name__}")
    return content


def write(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as `.safetensors`, in full or not at all."""
    save_file = _safetensors().save_file
    with whole_file(path) as part:
        save_file(dict(state), part, metadata={"format": "pt"})


def _file_in(folder: Path) -> Path:
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    # What the Trainer of transformers leaves beside the weights.
    found = [path for path in found if path.name != "training_args.bin"]
    if len(found) == 1:
        return found[0]
    what = f"several, {', '.join(path.name for path in found)}: name one" if found else "none"
    raise WeightsError(f"{folder} must have one file of weights ({', '.join(_NAMES)}), has {what}")


def _read_sharded(index: Path) -> dict[str, Tensor]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise WeightsError(f"{index} has no weight_map")
    shards: dict[str, list[str]] = {}
    for tensor, shard in names.items():
        if not isinstance(shard, str):
            raise WeightsError(
                f"the weight_map of {index} must give a file name for each tensor, "
                f"got {reprlib.repr(shard)} for {tensor!r}"
            )
        shards.setdefault(shard, []).append(tensor)
    state: dict[str, Tensor] = {}
    for shard, tensors in sorted(shards.items()):
        if not _is_beside(index, shard):
            raise WeightsError(f"{index} names {reprlib.repr(shard)}, which is not in the folder")
        if Path(shard).suffix not in _SUFFIXES:
            raise WeightsError(
                f"{index} names {shard!r}, which is no file of weights ({', '.join(_SUFFIXES)})"
            )
        found = _read_file(index.parent / shard)
        for tensor in tensors:
            if tensor not in found:
                raise WeightsError(f"{index} says that {shard} holds {tensor!r}, but it does not")
        state.update(found)
    return state


def _is_beside(index: Path, name: str) -> bool:
    """Return whether a file of that name lies in the folder of the index."""
    path = index.parent / name
    try:
        return path.parent.resolve() == index.parent.resolve() and path.is_file()
    except (OSError, ValueError):
        # No name that a file can have.
        return False


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return dict(_safetensors().load_file(path))
        except ImportError:
            raise
        except Exception as error:
            raise WeightsError(f"{path} is damaged or no safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            # About the version of a plain pickle, which is refused below.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:
        if _is_plain_pickle(path):
            raise WeightsError(
                f"{path} is a plain pickle, not a file of torch.save, and is not opened, since it "
                "may hold code: write the tensors by torch.save or as .safetensors"
            ) from error
        if isinstance(error, pickle.UnpicklingError) and any(w in str(error) for w in _CODE):
            raise WeightsError(
                f"{path} holds code or objects, not only tensors, and is not opened: "
                f"{_reason(error)}"
            ) from error
        raise WeightsError(f"{path} is damaged or no file of weights: {_reason(error)}") from error
    return _tensors(content, str(path))


def _is_plain_pickle(path: Path) -> bool:
    """Return whether a file is a whole pickle that torch did not write; nothing of it runs."""
    try:
        with path.open("rb") as file:
            return all(argument != _MAGIC for _, argument, _ in pickletools.genops(file))
    except Exception:
        return False


def _tensors(content: object, name: str) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of the one in a checkpoint."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{name} must hold a state dict, got {type(content).__name__}")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"{name} holds no tensors")
    return state


def _reason(error: BaseException) -> str:
    """Return torch's message without its advice to load the file anyway."""
    for line in str(error).splitlines():
        if any(word in line for word in _CODE):
            return line.strip().split(". ")[0].removeprefix("WeightsUnpickler error: ")
    lines = str(error).strip().splitlines()
    return (lines or [type(error).__name__])[-1].strip()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            "reading and writing .safetensors needs safetensors: pip install 'sparse-patterns[hf]'"
        ) from error
    return safetensors.torch
