"""Two processes with half of each batch train what one process trains; FSDP2 shards the weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_modules.language_model import LanguageModel
from lit_modules.training.distributed import gather, place, sum_over_processes, world_size
from tests.children import run_program


def run(strategy: str, processes: int, folder: Path) -> tuple[dict[str, Any], LanguageModel]:
    words = (strategy, str(processes), str(folder))
    run_program(Path(__file__).with_name("processes.py"), *words, processes=processes)
    found = json.loads((folder / "found.json").read_text())
    return found, LanguageModel.load_from_checkpoint(folder / "model.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[dict[str, Any], LanguageModel]:
    return run("auto", 1, tmp_path_factory.mktemp("alone"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_what_one_trains(strategy, alone, tmp_path):
    expected, whole = alone
    found, model = run(strategy, 2, tmp_path)
    assert len(found["losses"]) == 6
    # Sums over processes are added in another order; steps of Adam pass that on.
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-6)
    assert found["validated"] == pytest.approx(expected["validated"], abs=1e-6)
    share = found["held"] / expected["held"]
    assert share == 1 if strategy == "ddp" else 0.5 <= share < 0.55
    for name, parameter in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], parameter, rtol=0, atol=1e-5)
    # Each process saves the memory of its own rows.
    state = torch.load(tmp_path / "model.ckpt", weights_only=True)["language_model"]["memory"]
    assert [memory["layers"][0][0].shape[0] for memory in state] == [2, 2]
    assert not torch.equal(state[0]["layers"][0][0], state[1]["layers"][0][0])


def test_without_processes_sums_are_their_own():
    assert world_size() == 1
    tensor = torch.tensor([1.0, 2.0])
    assert sum_over_processes(tensor) is tensor
    assert gather("memory") == ["memory"]


def test_splitting_single_tensors_is_refused():
    class Mesh(dict):
        def size(self) -> int:
            return 4

    class Dimension:
        def __init__(self, size: int) -> None:
            self.size = lambda: size

    mesh = Mesh(data_parallel=Dimension(2), tensor_parallel=Dimension(2))
    net = torch.nn.Linear(2, 2)
    with pytest.raises(
        ValueError, match="got data_parallel_size=2 and tensor_parallel_size=2; set 4"
    ):
        place(net, torch.nn.ModuleList(), mesh=mesh, device=None)
