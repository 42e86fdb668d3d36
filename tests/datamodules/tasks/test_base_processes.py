"""The base of the tasks where several processes meet, or one is killed."""

import functools
import operator
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datamodules.tasks.rows import Example
from tests.children import run_program
from tests.datamodules.tasks.toy import Text, Toy, records_of, write

ROOT = Path(__file__).parents[3]


KILLED = """
import os, signal, sys
import datamodules.tasks.store
from tests.datamodules.tasks.toy import Toy

class Toy(Toy):
    def encode(self, record, split):
        if record.id == "r7":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(record, split)

datamodules.tasks.store.PIECE_RECORDS = 3
Toy.__module__ = "tests.datamodules.tasks.toy"
Toy(path=sys.argv[1], cache_dir=sys.argv[2]).setup()
"""


@pytest.mark.slow
@pytest.mark.long
def test_the_cache_survives_a_kill(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, folder, str(tmp_path / "c")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "c").glob("toy-*")
    assert len(list(left.glob("train-*"))) == 2
    assert not list(left.glob("index-*"))
    monkeypatch.setattr("datamodules.tasks.store.PIECE_RECORDS", 3)
    encoded = []
    encode = Toy.encode

    def noting(self: Toy, record: Text, split: str) -> Example:
        encoded.append(record.id)
        return encode(self, record, split)

    monkeypatch.setattr(Toy, "encode", noting)
    data = Toy(path=folder, cache_dir=str(tmp_path / "c"))
    assert [e.id for e in data.examples("train")] == [f"r{i}" for i in range(10)]
    assert encoded == ["r6", "r7", "r8", "r9", "d0", "d1", "d2", "d3", "d4"]


def test_several_processes_encode_the_same(folder: str) -> None:
    write(Path(folder) / "train.jsonl", records_of(300))
    alone = Toy(path=folder, preprocess_workers=0)
    many = Toy(path=folder, preprocess_workers=2, cache_dir=folder + "-cache")
    assert list(alone.examples("train")) == list(many.examples("train"))
    assert len(alone.examples("train")) == 300


SCRIPT = """
import sys, torch
from lightning import Trainer
from tests.datamodules.language_model.test_base import Recorder
from tests.datamodules.tasks.toy import Toy

class Model(Recorder):
    def __init__(self):
        super().__init__()
        self.ids, self.fillers, self.trained = [], 0, []
        self.register_buffer("synchronised", torch.zeros(1))

    def training_step(self, batch, batch_idx):
        self.trained.append(batch["ids"])
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        if batch.get("filler"):
            self.fillers += 1
        else:
            self.ids += batch["ids"]

if __name__ == "__main__":
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    model = Model()
    trainer.fit(model, datamodule=Toy(path=sys.argv[1], batch_size=2))
    found = (model.ids, model.fillers, model.trained)
    torch.save(found, f"{sys.argv[2]}/{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_evaluate_each_example_once(folder: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    run_program(script, folder, str(tmp_path), processes=2, folder=tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert sorted(first[0] + second[0]) == ["d0", "d1", "d2", "d3", "d4"]
    assert first[1] + second[1] == 1, "five examples, three batches of two"
    trained = [ids for pair in zip(first[2], second[2], strict=True) for ids in pair]
    assert sorted(functools.reduce(operator.iadd, trained, [])) == sorted(
        f"r{i}" for i in range(10)
    )
