"""Processes that share each sequence train what one process trains."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sparse_patterns as sp
from lit_modules.language_model import LanguageModel
from lit_modules.training.context_parallel import (
    ContextParallelStrategy,
    check_module,
    digest,
)
from tests.children import ROOT, start_group
from tests.lit_modules.modules.kinds import KINDS, make

PROGRAM = Path(__file__).with_name("on_ranks.py")
EVERY_DAY = ["language", "classification"]


Group = tuple[Path, int, str, list[str]]
"""Where files go, the number of processes, a function of `on_ranks.py`, and its words."""


def on_ranks(*groups: Group, precision: str = "64-true") -> list[list[Any]]:
    """What functions return on each rank of groups of processes; None where one was killed."""
    every = []
    for folder, ranks, function, words in groups:
        folder.mkdir(exist_ok=True)
        for file in folder.glob("*.json"):
            file.unlink()
        said = folder / "said"
        said.mkdir(exist_ok=True)
        line = [str(PROGRAM), str(folder), function, *words]
        children = start_group(
            line, ranks, ROOT, {"PRECISION": precision, "RANKS": str(ranks)}, str(said)
        )
        try:
            for child in children:
                child.join(300)
                assert child.exitcode is not None, f"{function} takes too long"
        finally:
            for child in children:
                child.kill()
        files = [folder / f"{rank}.json" for rank in range(ranks)]
        found = [json.loads(file.read_text()) if file.exists() else None for file in files]
        for one in found:
            failed = isinstance(one, dict) and "error" in one
            assert not failed, (one, [x.read_text()[-3000:] for x in said.iterdir()])
        every.append(found)
    return every


def same(one: Any, other: Any, close: float) -> bool:
    """Whether plain data is the same up to rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k], close) for k in one)
    if isinstance(one, list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(same(a, b, close) for a, b in pairs)
    if isinstance(one, float):
        return bool(one == pytest.approx(other, abs=close, nan_ok=True))
    return bool(one == other)


def compare(folder: Path, ranks: int, strategy: str, kinds: list[str]) -> None:
    """Train on one process and on several: losses, figures, predictions and weights are equal."""
    precision = "32-true" if strategy == "fsdp" else "64-true"
    # Adam makes steps as large as the learning rate of gradients that are rounded zeros.
    close, atol = (1e-4, 1e-2) if strategy == "fsdp" else (1e-9, 1e-9)
    (expected,), (first, *others) = on_ranks(
        (folder / "one", 1, "train", ["auto", *kinds]),
        (folder / "more", ranks, "train", [strategy, *kinds]),
        precision=precision,
    )
    for kind in kinds:
        one, more = expected[kind], first[kind]
        assert len(more["losses"]) == 8
        assert same(one["losses"], more["losses"], close), kind
        # Logged figures are rounded to float32.
        assert same(one["figures"], more["figures"], max(close, 1e-6)), kind
        assert same(one["predictions"], more["predictions"], 1e-2 if close > 1e-5 else close), kind
        same_weights(folder / "one", folder / "more", kind, atol)
    if strategy == "context":
        # The first of the processes that share a sequence returns the predictions.
        found = [rank[kind]["predictions"] for rank in others for kind in kinds]
        assert all(batch == [] for batches in found for batch in batches)


def same_weights(folder: Path, other: Path, kind: str, atol: float = 1e-9) -> None:
    """Checkpoints hold the same: what they are of, and weights."""
    one, more = (torch.load(place / f"{kind}.ckpt", weights_only=True) for place in (folder, other))
    assert one.keys() == more.keys()
    assert one["state_dict"].keys() == more["state_dict"].keys()
    for name, weight in one["state_dict"].items():
        found = more["state_dict"][name]
        torch.testing.assert_close(found, weight, rtol=0, atol=atol, msg=f"{kind} {name}")


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    compare(tmp_path, 2, "context", EVERY_DAY)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("ranks", "strategy"), [(2, "context"), (3, "context"), (4, "context:2"), (2, "fsdp")]
)
def test_other_numbers_of_processes(tmp_path: Path, ranks: int, strategy: str) -> None:
    compare(tmp_path, ranks, strategy, KINDS if strategy == "context" else EVERY_DAY)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_a_killed_run_resumes_on_any_number(tmp_path: Path, before: int, after: int) -> None:
    names = {1: "auto", 2: "context"}
    folder = tmp_path / "killed"
    _, killed = on_ranks(
        (tmp_path / "one", 1, "train", ["auto", "language"]),
        (folder, before, "killed", [names[before]]),
    )
    assert killed == [None] * before
    assert (folder / "last.ckpt").exists()
    on_ranks((folder, after, "resumed", [names[after]]))
    # A trainer loads weights before it makes the module float64.
    same_weights(tmp_path / "one", folder, "language", 1e-6)


@pytest.mark.slow
@pytest.mark.long
def test_memory_of_a_process_does_not_grow_with_the_sequence(tmp_path: Path) -> None:
    sizes = json.dumps(
        {"layers": 4, "heads": 4, "width": 256, "pattern": {"window": {"left": 255, "right": 0}}}
    )
    (one,), more = on_ranks(
        (tmp_path / "one", 1, "memory", ["auto", "2048", sizes]),
        (tmp_path / "more", 4, "memory", ["context", "8192", sizes]),
    )
    assert max(rank["step"] for rank in more) <= 1.15 * one["step"]
    assert max(rank["process"] for rank in more) <= 1.15 * one["process"]


@pytest.mark.slow
@pytest.mark.long
def test_what_does_not_fit_is_one_error_on_all(tmp_path: Path) -> None:
    (found,) = on_ranks((tmp_path, 2, "refused", []))
    messages = {
        "sizes": "must be the number of processes (2), got 3 x auto",
        "batches": "must read the same batch, but ranks 0 and 1 of 2 have different ones",
        "patterns": "all ranks of the group must make the same call",
        "after all": "no error",
    }
    for name, message in messages.items():
        for rank in found:
            assert message in rank[name]


@pytest.mark.slow
@pytest.mark.long
def test_a_process_that_dies_is_an_error_of_the_others(tmp_path: Path) -> None:
    ((first, second),) = on_ranks((tmp_path, 2, "left_alone", []))
    assert second is None
    assert "another process died" in first or "Connection closed by peer" in first


class Plain(LanguageModel):
    splits_sequences = False


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_dropout": 0.1}, r"dropout of attention weights \(in net.blocks.0.attention"),
        ({"positions": "alibi"}, r"positions='alibi' or 't5', .* \(in net\)"),
        ({"memory": 4}, r"memory of earlier segments \(4 tokens\) \(in the model\)"),
    ],
)
def test_a_model_that_cannot_be_cut_is_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_module(make("language", **fields), True)


def test_what_is_refused_in_training_alone() -> None:
    check_module(make("language", attention_dropout=0.1), False)
    for kind in KINDS:
        check_module(make(kind), True)


def test_a_module_says_that_it_cuts() -> None:
    with pytest.raises(TypeError, match=r"Plain does not say .* splits_sequences=True"):
        check_module(Plain(8, layers=1, heads=1, width=4), True)


def test_reasons_of_the_attention_module() -> None:
    bias = torch.zeros(2, 3)
    module = sp.SparseSelfAttention(
        4, 2, sp.Causal(), dropout=0.5, softcap=3.0, sinks=True, distance_bias=bias
    )
    reasons = ["dropout of attention weights", "softcap", "sinks", "distance_bias"]
    assert module.why_not_split(True) == reasons
    assert module.why_not_split(False) == reasons[1:]
    assert sp.SparseSelfAttention(4, 2, sp.Causal()).why_not_split(True) == []


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "all"])
def test_sizes_are_numbers_of_processes(size: Any) -> None:
    with pytest.raises(ValueError, match=r"data_parallel_size must be an int >= 1 or .auto"):
        ContextParallelStrategy(data_parallel_size=size)


def test_the_digest_is_of_the_whole_batch() -> None:
    def batch() -> dict[str, Any]:
        return {"ids": torch.arange(6).view(2, 3), "half": torch.ones(3, dtype=torch.bfloat16)}

    plain = digest({**batch(), "names": ["a", "b"], "empty": torch.empty(0)})
    assert plain == digest({**batch(), "names": ["a", "b"], "empty": torch.empty(0)})
    others: list[dict[str, Any]] = [
        {"names": ["a", "c"]},
        {"ids": torch.arange(6).view(3, 2)},
        {"ids": torch.arange(6).view(2, 3).int()},
        {"half": torch.tensor([1.0, 1.0, 2.0], dtype=torch.bfloat16)},
        {"more": None},
    ]
    for other in others:
        assert digest({**batch(), "names": ["a", "b"], "empty": torch.empty(0), **other}) != plain
