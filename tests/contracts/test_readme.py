"""The code that the README shows runs as it stands, in a process of its own."""

import re
from pathlib import Path

import pytest

from tests.children import run_program

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)


def test_there_is_code() -> None:
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("number", range(len(BLOCKS)))
@pytest.mark.slow
def test_code_runs(number: int, tmp_path: Path) -> None:
    # The same program with fewer steps.
    code = re.sub(r"max_steps=\d+", "max_steps=2", BLOCKS[number])
    program = tmp_path / "program.py"
    program.write_text(code, encoding="utf-8")
    own = {"SPARSE_PATTERNS_CACHE": str(tmp_path)}
    printed = run_program(program, folder=tmp_path, environment=own)
    if "Trainer" in code:
        assert "`max_steps=2` reached" in printed
