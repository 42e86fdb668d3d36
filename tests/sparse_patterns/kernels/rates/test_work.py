"""The file of rates knows every kind of work that a kernel names, and threads share only some."""

import json
from importlib import resources

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.rates import work
from tests.sparse_patterns.kernels.tiles.test_work import CASES, request

NAMES = ("tiles", "dense", "sdpa", "xformers_blocks")


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_work_has_a_rate(name: str) -> None:
    kernel = KERNELS[name]
    known = work.table()[name]["seconds"]
    for pattern, fields in [*CASES.values(), (sp.Causal(), {"key_mask": True})]:
        asked = request(pattern, **fields)
        amounts = kernel.work(asked, asked.plan)
        assert amounts is not None
        assert amounts.keys() <= known.keys()
        assert 0 < kernel.seconds(asked, asked.plan) < 10


def test_the_file_says_where_its_numbers_come_from() -> None:
    text = resources.files(work.__package__).joinpath("processors.json").read_text("utf-8")
    table = json.loads(text)
    assert table.keys() == set(NAMES)
    for line in table.values():
        assert line.keys() == {"source", "seconds"}
        assert line["source"].startswith("measured 20")
        assert all(seconds >= 0 for seconds in line["seconds"].values())


def test_threads_share_what_is_no_start_of_an_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"mill": {"seconds": {"call": 2.0, "back piece": 3.0, "pair": 8.0}}}
    monkeypatch.setattr(work, "table", lambda: rates)
    amounts = {"call": 1, "back piece": 2, "pair": 1}
    assert work.seconds("mill", amounts, threads=1) == 16
    assert work.seconds("mill", amounts, threads=4) == 10
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert work.seconds("mill", amounts) == 12
    finally:
        torch.set_num_threads(before)
    with pytest.raises(KeyError):
        work.seconds("mill", {"walk": 1})
