"""Modules saved whole run in other processes; a sharded one never holds all of its weights."""

import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.children import run_program
from tests.lit_modules.modules import processes
from tests.lit_modules.modules.kinds import KINDS, data, make, trainer

PROGRAM = Path(__file__).with_name("processes.py")


def test_whole_modules_run_in_a_new_process(tmp_path: Path) -> None:
    expected: dict[str, Any] = {}
    for kind in KINDS:
        model = make(kind)
        trainer(max_epochs=1).fit(model, datamodule=data(kind))
        torch.save(model, tmp_path / f"{kind}.pt")
        expected[kind] = processes.scores(model, kind)
    run_program(PROGRAM, "run", str(tmp_path))
    found = json.loads((tmp_path / "found.json").read_text())
    for kind in KINDS:
        scores, loss = expected[kind]
        assert found[kind][0] == pytest.approx(scores, rel=1e-5, abs=1e-6)
        assert found[kind][1] == pytest.approx(loss, rel=1e-6)


@pytest.mark.slow
@pytest.mark.long
def test_a_module_goes_to_a_spawned_worker() -> None:
    model = make("classification")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(processes.scores, (model, "classification"))
    assert found[0] == pytest.approx(processes.scores(model, "classification")[0], abs=1e-6)


@pytest.mark.slow
@pytest.mark.long
def test_a_sharded_model_never_holds_the_whole_in_memory(tmp_path: Path) -> None:
    run_program(PROGRAM, "shard", str(tmp_path), processes=2)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert 0.5 <= found["held"] < 0.51
        # Half of the weights, and a layer at a time.
        assert 0.4 < found["most"] < 0.9
        assert found["loss"] == pytest.approx(math.log(32), abs=0.1)
