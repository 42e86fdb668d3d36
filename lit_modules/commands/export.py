"""`sparse-patterns export`: a masked language model's checkpoint as a folder for `transformers`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from lit_modules.commands.arguments import Parser
from lit_modules.commands.early.check import check_plain_file
from lit_modules.commands.errors import UsageError
from lit_modules.commands.generate import load_model

__all__ = ["export"]


def export(words: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    arguments = _parser().parse_args(words)
    folder: Path = arguments.output
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder")
    check_plain_file(arguments.ckpt_path, "ckpt_path")
    from lit_modules import weights
    from lit_modules.callbacks.checkpoints import CheckpointError
    from lit_modules.nn.encoder.masked_lm import MaskedLM

    model, described = load_model(arguments.ckpt_path)
    net = getattr(model, "net", None)
    if not isinstance(net, MaskedLM):
        raise CheckpointError(
            f"{arguments.ckpt_path} is a {type(model).__name__}, which is no masked language model"
        )
    weights.save_masked_lm(net, folder)
    tokenizer = Path(described.get("init_args", {}).get("tokenizer") or "")
    # As in the configuration: a path relative to the folder where training was started.
    if tokenizer.is_dir():
        weights.copy_tokenizer(tokenizer, folder, net.encoder.config.max_length)
    elif tokenizer.is_file():
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
    elif tokenizer.name:
        print(f"tokenizer  {tokenizer} is not here: copy it into the folder yourself")
    print(f"saved      {folder}, a {net.encoder.config.model_type}")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="sparse-patterns export", description=__doc__)
    parser.add_argument("ckpt_path", help="a checkpoint that `fit` has written")
    parser.add_argument("output", type=Path, help="a new folder")
    return parser
