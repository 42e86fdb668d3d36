"""The measured choice: made once for each case, kept on disk, shown, and never a wrong one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.config.files import CACHE_VARIABLE
from sparse_patterns.kernels import tuning
from sparse_patterns.kernels.base import Call, Kernel
from sparse_patterns.kernels.dense import DenseKernel
from sparse_patterns.kernels.dispatch import KERNELS

WINDOW = sp.Window(8, 8)


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Keeps what is measured out of the user's folder, and out of other tests."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    tuning.forget()
    return tmp_path / "tuning"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes every run of a kernel, and has the dense one measured as the fastest."""
    seen: list[str] = []
    really = tuning.time_once

    def timed(kernel: Kernel, call: Call, made: sp.Plan) -> float:
        assert really(kernel, call, made) > 0
        return 1e-3 if kernel.name == "dense" else 2e-3

    monkeypatch.setattr(tuning, "time_once", timed)
    for name, kernel in KERNELS.items():

        def spy(call: Call, made: sp.Plan, name=name, plain=kernel.forward):
            seen.append(name)
            return plain(call, made)

        monkeypatch.setattr(kernel, "forward", spy)
    return seen


def attend(length: int = 64, **fields) -> torch.Tensor:
    x = torch.randn(1, 2, length, 8, generator=torch.Generator().manual_seed(0))
    x.requires_grad_(fields.pop("needs_grad", False))
    pattern = fields.pop("pattern", WINDOW)
    out = sp.attention(x, x, x, pattern, **{"kernel": "tune", **fields})
    assert isinstance(out, torch.Tensor)
    return out


def test_the_fastest_is_taken_and_measured_once(runs: list[str], folder: Path) -> None:
    want = attend(kernel="tiles")
    runs.clear()
    torch.testing.assert_close(attend(), want)
    assert set(runs) == {"tiles", "dense", "sdpa", "xformers_blocks"}
    assert runs[-1] == "dense"
    for _ in range(2):
        runs.clear()
        attend()
        assert runs == ["dense"]
        tuning.forget()  # as in a new process: the file is read
    (file,) = folder.iterdir()
    kept = json.loads(file.read_text())
    assert min(kept["seconds"], key=kept["seconds"].get) == "dense"
    assert kept["key"]["torch"] == torch.__version__


def test_each_case_is_its_own(runs: list[str], folder: Path) -> None:
    cases: list[dict] = [
        {"length": 65},
        {"pattern": sp.Window(8, 9)},
        {"needs_grad": True},
        {"dropout_p": 0.5},
        {"key_mask": torch.ones(1, 64, dtype=torch.bool)},
        {"layer": 1, "layers": 2},
        {"q_offset": 3},
    ]
    attend()
    for number, fields in enumerate(cases):
        runs.clear()
        attend(**fields)
        assert len(set(runs)) > 1, fields
        assert len(list(folder.iterdir())) == number + 2, fields


def test_versions_are_part_of_the_case(
    runs: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attend()
    runs.clear()
    monkeypatch.setattr(tuning, "versions_of_libraries", lambda: {"torch": "another"})
    attend()
    assert len(set(runs)) > 1
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": {}, "seconds": {"dense": 1}}'])
def test_a_file_that_is_not_whole_is_measured_again(
    runs: list[str], folder: Path, content: str
) -> None:
    attend()
    (file,) = folder.iterdir()
    whole = json.loads(file.read_text())
    file.write_text(content)
    tuning.forget()
    runs.clear()
    attend()
    assert len(set(runs)) > 1
    assert json.loads(file.read_text())["key"] == whole["key"]
    assert [one.name for one in folder.iterdir()] == [file.name]


def test_a_folder_that_cannot_be_written_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = folder.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(blocked))
    with pytest.warns(UserWarning, match=r"cannot be kept in .*SPARSE_PATTERNS_CACHE"):
        attend()
    attend()  # kept in memory, so told once


def test_a_rule_is_kept_in_memory_only(runs: list[str], folder: Path) -> None:
    pattern = sp.Rule(lambda q, k, head: q >= k)
    attend(pattern=pattern)
    assert not folder.exists()
    runs.clear()
    attend(pattern=pattern)
    assert len(runs) == 1


def test_gradients_are_those_of_the_chosen_kernel(runs: list[str]) -> None:
    grads = []
    for kernel in ("tune", "dense"):
        x = torch.randn(1, 2, 64, 8, generator=torch.Generator().manual_seed(0))
        x.requires_grad_()
        out = sp.attention(x, x, x, WINDOW, kernel=kernel)
        assert isinstance(out, torch.Tensor)
        grads.append(torch.autograd.grad(out.square().sum(), x)[0])
    torch.testing.assert_close(*grads)


def test_a_kernel_that_runs_out_of_memory_is_left_out(
    runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(call: Call, made: sp.Plan) -> None:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(KERNELS["dense"], "forward", fail)
    attend()
    assert runs[-1] in ("tiles", "sdpa", "xformers_blocks")
    for name in ("tiles", "sdpa", "xformers_blocks"):
        monkeypatch.setattr(KERNELS[name], "forward", fail)
    with pytest.raises(torch.OutOfMemoryError, match="too much"):
        attend(length=65)


def test_a_kernel_without_hope_is_not_run(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DenseKernel, "seconds", lambda self, request, made: 1e6)
    attend()
    assert "dense" not in runs


def test_explain_measures_and_shows(runs: list[str]) -> None:
    assert "measured" not in str(sp.explain(WINDOW, 64, heads=2, head_dim=8))
    told = sp.explain(WINDOW, 64, heads=2, head_dim=8, kernel="tune")
    assert told.chosen == "dense"
    lines = [line for line in str(told).splitlines() if "measured" in line]
    assert [line.split()[0] for line in lines] == ["tiles", "dense", "sdpa", "xformers_blocks"]
    assert all(line.endswith("ms forward") for line in lines)
    runs.clear()
    # The choice by declared rates shows them too, and a call of this shape knows them.
    assert "measured" in str(sp.explain(WINDOW, 64, heads=2, head_dim=8))
    attend()
    assert runs == ["dense"]
    trained = sp.explain(WINDOW, 64, heads=2, head_dim=8, kernel="tune", needs_grad=True)
    assert "ms forward and backward" in str(trained)


@pytest.mark.parametrize(
    "pattern",
    [WINDOW | sp.BatchGlobal(), WINDOW & sp.SameDocument(), sp.get("bigbird", block=16)],
    ids=repr,
)
def test_explain_measures_patterns_of_every_kind(pattern: sp.Pattern) -> None:
    fields = {"global_mask": True} if sp.BatchGlobal() in list(pattern.walk()) else {}
    told = sp.explain(pattern, 64, heads=2, kernel="tune", key_mask=True, **fields)
    assert told.chosen in KERNELS


def test_modules_take_it() -> None:
    module = sp.SparseSelfAttention(16, 2, WINDOW, kernel="tune")
    assert module(torch.randn(1, 20, 16)).shape == (1, 20, 16)


def test_it_is_compiled_into_a_graph_like_any_other(runs: list[str]) -> None:
    attend()
    compiled = torch.compile(attend, backend="eager")
    torch.testing.assert_close(compiled(), attend(kernel="dense"))
