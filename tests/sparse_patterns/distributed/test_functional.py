"""Attention over several processes is that of one process; wrong calls end on all of them."""

from typing import Any

import pytest
import torch

import sparse_patterns as sp
from tests.sparse_patterns.distributed.groups import run_in_groups

X = torch.ones(1, 2, 6, 8)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    names = {
        "two": (2, "on_ranks:compare_some"),
        "four": (4, "on_ranks:compare_others"),
        "wrapped": (2, "on_ranks:wrapped"),
        "counted": (3, "on_ranks:counted"),
        "refused": (2, "on_ranks:refused"),
        "left alone": (2, "on_ranks:left_alone"),
        "kept waiting": (2, "on_ranks:kept_waiting"),
    }
    results = run_in_groups(tmp_path_factory.mktemp("groups"), *names.values())
    return dict(zip(names, results, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("group", ["two", "four", "wrapped"])
def test_outputs_and_gradients_are_those_of_one_process(found: dict[str, Any], group: str) -> None:
    assert {name: wrong for name, wrong in found[group].items() if wrong} == {}
    assert len(found[group]) > (14 if group != "wrapped" else 2)


@pytest.mark.slow
def test_traffic_is_what_travels(found: dict[str, Any]) -> None:
    for name, amounts in found["counted"].items():
        assert amounts["counted"] == amounts["said"], name
        assert sum(amounts["counted"][0]) > 0, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("patterns", "ranks of the group must make the same call, got rank 0: pattern=Window"),
        ("layers", "layer=1 of 2"),
        ("heads", "heads=1"),
        ("types", "dtype=torch.float64"),
        ("gradients", "gradients=True"),
        ("a cache", "5 queries and 3 keys; a cache of earlier keys runs on one process"),
        ("dropout", "dropout_p must be 0 over several processes, got 0.5"),
        ("no pattern", "pattern must be a Pattern, got 'window'; write sp.get"),
        ("kernel", "kernel 'flex' cannot serve rank 0 of 2: runs on CUDA only"),
    ],
)
def test_a_wrong_call_is_one_error_on_all(found: dict[str, Any], call: str, message: str) -> None:
    texts = found["refused"][call]
    assert len(texts) == 2
    assert all(message in text for text in texts), texts
    assert found["refused"]["after all"] == ["no error", "no error"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["left alone", "kept waiting"])
def test_a_process_that_is_left_alone_says_so(found: dict[str, Any], case: str) -> None:
    assert "RuntimeError: distributed attention: rank 0 of 2 could not compare" in found[case]
    assert "another process died" in found[case]


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 4])
def test_all_calls_and_random_specs(tmp_path: Any, ranks: int) -> None:
    (results,) = run_in_groups(tmp_path, (ranks, "on_ranks:compare_all"), timeout=900)
    assert len(results) > 120
    assert {name: wrong for name, wrong in results.items() if wrong} == {}


def test_without_a_group() -> None:
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group first"):
        sp.distributed.attention(X, X, X, sp.Window(1, 1))
