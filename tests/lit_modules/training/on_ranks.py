"""Training runs on several processes, for `test_context_parallel.py`.

`python -m ... FOLDER RANKS FUNCTION [WORD ...]` calls a function on each rank of a group, and
writes what it returns there, or the error, to FOLDER/RANK.json. Libraries are imported once: each
process is a fork of this one.
"""

import json
import os
import socket
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # Imported once, before the processes are forked.
from lightning.pytorch import Callback, Trainer, seed_everything

from lit_modules.training.context_parallel import (
    ContextParallelStrategy,
    ShardedContextParallelStrategy,
)
from tests.lit_modules.modules.kinds import data, make, trainer


class Losses(Callback):
    """Notes the loss of each batch."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.found.append(float(trainer.callback_metrics["train/loss"]))


def strategies(name: str) -> Any:
    """A strategy by its name; a number after it is the size of the data dimension."""
    kind, _, size = name.partition(":")
    given: Any = {"data_parallel_size": int(size)} if size else {}
    kinds = {"context": ContextParallelStrategy, "fsdp": ShardedContextParallelStrategy}
    return kinds[kind](**given) if kind in kinds else kind


def trained(kind: str, strategy: str, folder: Path, epochs: int = 2) -> dict[str, Any]:
    """Fit, validate and predict; the weights are saved to the folder."""
    seed_everything(0, verbose=False)
    ranks = int(os.environ["RANKS"])
    losses = Losses()
    given: dict[str, Any] = {"max_epochs": epochs, "use_distributed_sampler": False}
    given["precision"] = os.environ.get("PRECISION", "64-true")
    run = trainer(losses, strategy=strategies(strategy), devices=ranks, **given)
    model = make(kind)
    run.fit(model, datamodule=data(kind, 2))
    run.save_checkpoint(folder / f"{kind}.ckpt")
    (figures,) = run.validate(model, datamodule=data(kind), verbose=False)
    predictions = run.predict(model, datamodule=data(kind))
    return {
        "losses": losses.found,
        "figures": figures,
        "predictions": [[_plain(one) for one in batch] for batch in predictions or ()],
    }


def _plain(prediction: Any) -> Any:
    return prediction.tolist() if isinstance(prediction, torch.Tensor) else prediction


def train(folder: Path, strategy: str, *kinds: str) -> dict[str, Any]:
    """Train modules one after the other."""
    return {kind: trained(kind, strategy, folder) for kind in kinds}


def work(folder: Path, rank: int, function: str, words: list[str]) -> None:
    """Call a function as one process of a group."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    try:
        found = globals()[function](folder, *words)
    except BaseException as error:
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    """Run all processes at once, and wait for them."""
    folder, ranks, function, words = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": ranks,
        "RANKS": ranks,
    }
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    children = []
    for rank in range(int(ranks)):
        child = os.fork()
        if not child:
            work(folder, rank, function, words)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
