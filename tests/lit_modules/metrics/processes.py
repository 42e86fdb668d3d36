"""Scores a fixed list of examples in any number of processes, for `test_processes.py`.

Run as a program, once for each process; each takes its share of the examples.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed as dist

from lit_modules.metrics import (
    AnswerScore,
    CandidateAccuracy,
    CoreferenceScore,
    HotpotScore,
    classification_metrics,
)

COREFERENCE = [
    ([[(0, 1), (2, 2)], [(4, 5)]], [[(0, 1), (2, 2), (4, 5)]]),
    ([[(0, 0), (1, 1)]], [[(0, 0), (2, 2)], [(1, 1), (3, 4)]]),
    ([], [[(7, 7), (9, 9)]]),
]
ANSWERS = [("x", ["x"], "1", 1.0), ("y", ["x"], "1", 2.0), ("x y", ["y", "z"], "2", 0.0)]
HOTPOT = [("x", [("A", 0)], "x y", [("A", 0), ("B", 1)]), ("yes", [("A", 0)], "yes", [("A", 0)])]
LABELS = [(0, 0), (1, 2), (2, 2), (0, -1), (1, 1)]


def scores(rank: int, processes: int, alone: bool) -> dict[str, float]:
    """Scores every `processes`-th example; with `alone` all of them on the first process."""
    step = slice(rank, None, processes) if not alone else slice(0 if rank == 0 else 99, None)
    coreference, answers, hotpot = CoreferenceScore(), AnswerScore("squad"), HotpotScore()
    for predicted, gold in COREFERENCE[step]:
        coreference.update(predicted, gold)
    for prediction, accepted, question, score in ANSWERS[step]:
        answers.update([prediction], [accepted], questions=[question], scores=[score])
    for one in HOTPOT[step]:
        hotpot.update(*([part] for part in one))
    labels = classification_metrics(3) | {"candidates": CandidateAccuracy()}
    for prediction, label in LABELS[step]:
        for metric in labels.values():
            metric.update(torch.tensor([prediction]), torch.tensor([label]))
    found = {**coreference.compute(), **answers.compute(), **hotpot.compute()}
    found |= {f"labels_{name}": metric.compute() for name, metric in labels.items()}
    return {name: float(value) for name, value in found.items()}


def main() -> None:
    """Write what every process found, of examples divided and of examples all on one process."""
    rank, processes, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    # A lone process needs no group, so that metrics are computed as without one.
    if processes > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        store = (folder / "store").as_uri()
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    found = [scores(rank, processes, alone) for alone in (False, True)]
    (folder / f"{rank}.json").write_text(json.dumps(found))
    if processes > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
