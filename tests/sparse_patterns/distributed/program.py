"""Runs functions in groups of processes: `python program.py FOLDER RANKS:MODULE:FUNCTION ...`.

Libraries are imported once; each process is a fork of this one. A function is called in every
process of its group, and what it returns on rank 0 is written to FOLDER/NUMBER.json.
"""

import importlib
import json
import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

import sparse_patterns  # noqa: F401

TIMEOUT = timedelta(seconds=90)


def work(folder: Path, number: int, rank: int, ranks: int, name: str) -> None:
    """Call a function as one process of a group."""
    torch.set_num_threads(1)
    module, function = name.split(":")
    distributed.init_process_group(
        "gloo",
        init_method=(folder / f"store{number}").as_uri(),
        rank=rank,
        world_size=ranks,
        timeout=TIMEOUT,
    )
    found = getattr(importlib.import_module(module), function)()
    if rank == 0:
        (folder / f"{number}.json").write_text(json.dumps(found))
        # The others may have to wait for nobody, also where one has left on purpose.
    sys.stdout.flush()
    os._exit(0)


def main() -> int:
    """Run all groups at once; the exit status counts the processes that failed."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    folder, children = Path(sys.argv[1]), []
    for number, wanted in enumerate(sys.argv[2:]):
        ranks, name = wanted.split(":", 1)
        importlib.import_module(name.split(":")[0])
        for rank in range(int(ranks)):
            child = os.fork()
            if not child:
                try:
                    work(folder, number, rank, int(ranks), name)
                except BaseException:
                    traceback.print_exc()
                    sys.stderr.flush()
                    os._exit(1)
            children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main())
