"""`sparse-patterns generate`: continue a prompt with a language model, printed token by token."""

from __future__ import annotations

import argparse
import codecs
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lit_modules.commands.arguments import Parser
from lit_modules.commands.early.check import check_plain_file

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["generate", "load", "load_model"]


def generate(words: Sequence[str], datasets: Any) -> int:
    """Run the command and return the exit status.

    Args:
        words: The rest of the command line.
        datasets: What finds a data set by name or by the import path in a checkpoint: it has
            `path_of(name)`.
    """
    arguments = _parser().parse_args(words)
    check_plain_file(arguments.ckpt_path)
    import torch

    model, data = load(arguments.ckpt_path, datasets)
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(arguments.device or usual)
    model.to(device).eval()
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    ids = data.encode(prompt) if data is not None else list(prompt.encode())
    if not ids:
        raise ValueError("--prompt must have at least one token, got none")
    tokens = model.generate(
        torch.tensor([ids], device=device),
        arguments.max_new,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        greedy=arguments.greedy,
        seed=arguments.seed,
    )
    sys.stdout.write(prompt)
    for text in _texts(tokens, data):
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def load(path: str, datasets: Any) -> tuple[Any, Any]:
    """Load a language model and the data set it was trained on.

    The data set is constructed but not prepared: only its encoding is used; files may be absent.

    Args:
        path: The checkpoint.
        datasets: The registry of data sets, also by import path; it has `path_of(name)`.

    Returns:
        The module, and the data module or None where the checkpoint names none.

    Raises:
        UsageError: There is no such file.
        CheckpointError: The file is no checkpoint of a language model.
    """
    model, described = load_model(path, "generate")
    data = None
    if described:
        data_class = _data_class(datasets.path_of(described["class_path"]), path)
        data = data_class(**described.get("init_args", {}))
    return model, data


def load_model(path: str, method: str | None = None) -> tuple[Any, dict[str, Any]]:
    """Load a model from a checkpoint.

    Args:
        path: The checkpoint.
        method: Name of a method that the model must have; None for none.

    Returns:
        The module, and class path and arguments of its data set, empty where none are named.

    Raises:
        UsageError: There is no such file.
        CheckpointError: The file is no checkpoint, or the model lacks the method.
    """
    check_plain_file(path)
    import torch

    from lit_modules.callbacks.checkpoints import CheckpointError
    from lit_modules.callbacks.provenance import KEY

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is no checkpoint: {first}") from error
    if "hyper_parameters" not in content or "state_dict" not in content:
        raise CheckpointError(f"{path} is no checkpoint of a model: it has no hyper_parameters")
    parameters = dict(content["hyper_parameters"])
    parameters.pop("_instantiator", None)
    model_class = _imported(
        parameters.pop("_class_path", "lit_modules.language_model.LanguageModel")
    )
    if method is not None and not hasattr(model_class, method):
        raise CheckpointError(f"{path} is a {model_class.__name__}, which does not {method}")
    model = model_class(**parameters)
    model.configure_model()
    model.on_load_checkpoint(content)
    model.load_state_dict(content["state_dict"])
    return model, content.get(KEY) or {}


def _data_class(class_path: str, checkpoint: str) -> Any:
    try:
        return _imported(class_path)
    except (ImportError, AttributeError) as error:
        from lit_modules.callbacks.checkpoints import CheckpointError

        raise CheckpointError(
            f"{checkpoint} was trained on the data set {class_path}, which cannot be imported: "
            f"{error}; --import the module that defines it"
        ) from error


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _texts(tokens: Iterator[Tensor], data: Any) -> Iterator[str]:
    """Decode tokens one after another.

    A character of several bytes is written when it is complete, and so is what a tokenizer writes
    differently once the next token is known.
    """
    if data is None or (data.unit == "byte" and data.vocabulary_size == 256):
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in tokens:
            yield decoder.decode(bytes([int(token[0])]))
        yield decoder.decode(b"", final=True)
        return
    ids: list[int] = []
    written = 0
    for token in tokens:
        ids.append(int(token[0]))
        text = data.decode(ids)
        if not text.endswith("�"):
            yield text[written:]
            ids, written = ids[-8:], len(data.decode(ids[-8:]))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="sparse-patterns generate", description=__doc__)
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint that `fit` has written")
    parser.add_argument("--prompt", default="\n", help="the text to continue; - reads stdin")
    parser.add_argument("--max-new", type=int, default=500, help="tokens to generate")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-k", type=int, default=None)
    parser.add_argument("--top-p", type=float, default=None)
    parser.add_argument("--greedy", action="store_true", help="always the most likely token")
    parser.add_argument("--seed", type=int, default=None, help="the same seed gives the same text")
    parser.add_argument("--device", default=None, help="by default cuda where there is one")
    return parser
