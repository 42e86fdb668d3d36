"""Two processes with half of the examples, or none, find what one process finds."""

import json
from pathlib import Path

import pytest

from tests.children import run_program


def run(processes: int, folder: Path) -> list[list[dict[str, float]]]:
    folder.mkdir()
    program, words = Path(__file__).with_name("processes.py"), (str(processes), str(folder))
    run_program(program, *words, processes=processes, numbered=True)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path):
    pytest.importorskip("scipy")
    ((expected, again),) = run(1, tmp_path / "one")
    assert again == expected
    assert 0 < expected["average_f1"] < 1
    for divided, all_on_one in run(2, tmp_path / "two"):
        assert divided == pytest.approx(expected, abs=1e-7)
        assert all_on_one == pytest.approx(expected, abs=1e-7)
