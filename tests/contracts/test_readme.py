"""The code that the README shows runs as it stands, in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)


def test_there_is_code() -> None:
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("number", range(len(BLOCKS)))
@pytest.mark.slow
def test_code_runs(number: int, tmp_path: Path) -> None:
    # The same program with fewer steps.
    code = re.sub(r"max_steps=\d+", "max_steps=2", BLOCKS[number])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SPARSE_PATTERNS_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    if "Trainer" in code:
        assert "`max_steps=2` reached" in done.stdout + done.stderr
