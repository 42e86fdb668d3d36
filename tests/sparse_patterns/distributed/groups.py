"""Starts groups of processes for tests, and says what functions found there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def run_in_groups(folder: Path, *functions: tuple[int, str], timeout: float = 240) -> list[Any]:
    """Call functions in groups of processes and return what each gives on rank 0.

    Args:
        folder: Where files go; must exist.
        *functions: Number of processes, and `module:function` below the folder of these tests.
        timeout: Seconds for all of them together.
    """
    base = "tests.sparse_patterns.distributed"
    words = [f"{ranks}:{base}.{name}" for ranks, name in functions]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"{base}.program", str(folder), *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(len(words))]
