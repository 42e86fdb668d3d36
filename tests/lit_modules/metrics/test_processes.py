"""Two processes with half of the examples, or none, find what one process finds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(processes: int, folder: Path) -> list[list[dict[str, float]]]:
    folder.mkdir()
    program = str(Path(__file__).with_name("processes.py"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", program, str(rank), str(processes), str(folder)],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()
            process.wait()
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
