"""The table of docs/parallel.md is what `sp.distributed.traffic` says."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "docs" / "scripts"))

import parallel


@pytest.mark.parametrize(
    "ranks", [(8,), pytest.param(parallel.RANKS, marks=pytest.mark.long)], ids=str
)
def test_the_table_is_what_traffic_says(ranks: tuple[int, ...]) -> None:
    page = parallel.PAGE.read_text("utf-8").split(parallel.START)[1].split(parallel.END)[0]
    lines = page.splitlines()[2:]
    assert len(lines) == len(parallel.RANKS) * len(parallel.WINDOWS)
    wanted = [line for line in lines if int(line.split("|")[1].replace(",", "")) in ranks]
    assert wanted == parallel.table(ranks).splitlines(), "run `python docs/scripts/parallel.py`"
