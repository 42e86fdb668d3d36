"""`gpu-check` from end to end, on a pretend device with kernels that run on the CPU."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import sparse_patterns as sp
from benchmarks.__main__ import main as benchmarks
from benchmarks.contenders import Contender
from benchmarks.cuda.contenders import inputs_of
from benchmarks.cuda.shapes import HEADS, PATTERNS, CudaShape
from benchmarks.gpu_check import command, contract, speed, worker
from benchmarks.gpu_check.place import Place, Sizes
from benchmarks.gpu_check.records import FAILED, LATE, MISSING, RIGHT, TOLD, WRONG
from benchmarks.timing import Effort
from sparse_patterns.kernels.dispatch import KERNELS
from tests.contracts.imports import ROOT
from tests.contracts.kernels import cases
from tests.contracts.kernels.emulated.fused import EmulatedFused

SIZES = Sizes(
    product=32,
    copied=1 << 12,
    window_length=140,
    model_length=32,
    model_width=64,
    speed_length=40,
    head_dim=16,
    plan_length=1024,
    effort=Effort(rounds=1, budget_s=0.0),
)


def dense(shape: CudaShape) -> Contender:
    return Contender(scaled_dot_product_attention, inputs_of(shape, "cpu"))


def by_hand(shape: CudaShape) -> Contender:
    """What a user would write, without a compiler."""
    at = torch.arange(shape.length)
    heads = torch.arange(HEADS)[:, None, None]
    mask = shape.mask_mod("cpu")(torch.tensor(0), heads, at[:, None], at[None])

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return Contender(call, inputs_of(shape, "cpu"))


class StandIn(EmulatedFused):
    """In place of FlexAttention, which takes long without its compiler."""

    name = "flex"


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A device that is none: kernels of a GPU as the tests emulate them."""
    monkeypatch.setitem(KERNELS, "xformers_fused", EmulatedFused())
    monkeypatch.setitem(KERNELS, "flex", StandIn())
    few = {name: PATTERNS[name] for name in ("window-1024", "bigbird")}
    monkeypatch.setattr(speed, "PATTERNS", few)
    monkeypatch.setattr(contract, "MOST_SPECS", 4)
    monkeypatch.setattr(contract, "AT_ONCE", 2)
    some = [(name, cases.HARD[name]) for name in ("no keys", "documents", "padding marked global")]
    monkeypatch.setattr(contract.cases, "presets", lambda: some[1:])
    monkeypatch.setattr(contract.cases, "hard_shapes", lambda: some)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # everything is small
    yield Place(
        device="cpu",
        kernels=("xformers_fused", "flex"),
        sizes=SIZES,
        backend="eager",
        dense=dense,
        rivals={"flex": by_hand},
    )
    torch.set_num_threads(threads)


def run(place: Place, out: Path, minutes: str = "20") -> tuple[int, dict]:
    """The status and the file."""
    torch._dynamo.reset()
    status = command.main(["--minutes", minutes, "--out", str(out)], place)
    return status, json.loads(out.read_text())


def test_every_part_runs_to_its_end(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, saved = run(place, tmp_path / "a" / "found.json")
    printed = capsys.readouterr().out
    records = saved["records"]
    states = {(one["part"], one["name"]): one["state"] for one in records}
    assert status == 0, printed
    assert {one["part"] for one in records} == set(worker.PARTS)
    assert not {WRONG, FAILED, LATE} & set(states.values()), printed
    assert states["window", "flex bfloat16"] == RIGHT
    assert states["contract", "xformers_fused float16 hard shapes"] == RIGHT
    assert states["compiled", "flex"] == RIGHT
    assert states["speed", "window-1024 xformers_fused forward+backward"] == TOLD
    assert states["speed", "bigbird xformers_fused"] == MISSING
    assert states["speed", "window-1024 flex by hand forward"] == TOLD
    assert states["planning", "documents flex"] in (RIGHT, TOLD)
    # A line for each record, and the table of states.
    assert len(re.findall(r"^compiled +right +flex: \d+ graphs", printed, re.MULTILINE)) == 1
    assert "| part | right | WRONG | FAILED | missing | late | told |" in printed
    assert {one["kernel"] for one in saved["proposed"]["rates"]} == {"xformers_fused", "flex"}
    kinds = {(one["kernel"], one["dtype"]) for one in saved["proposed"]["tolerances"]}
    assert ("flex", "float32") in kinds
    assert all("measured 20" in one["source"] for one in saved["proposed"]["rates"])


class Wrong(EmulatedFused):
    """A kernel whose first output is a little off, and which fails on documents."""

    def forward(self, call, plan):
        out, lse = super().forward(call, plan)
        if call.segment_ids is not None:
            raise RuntimeError("no documents today")
        return out * 1.1, lse


def test_a_wrong_number_and_a_failure_end_with_status_1(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KERNELS, "xformers_fused", Wrong())
    monkeypatch.setattr(worker, "PARTS", {"window": 0.5, "contract": 0.5})
    place.kernels = ("xformers_fused",)
    status, saved = run(place, tmp_path / "found.json")
    states = {one["name"]: one["state"] for one in saved["records"]}
    assert status == 1
    assert states["xformers_fused bfloat16"] == WRONG
    assert states["xformers_fused bfloat16 hard shapes"] == FAILED


def test_what_is_late_is_named_and_not_run(place: Place, tmp_path: Path) -> None:
    status, saved = run(place, tmp_path / "found.json", minutes="1e-9")
    assert status == 0
    assert {one["state"] for one in saved["records"]} == {LATE}
    assert saved["records"][1]["name"] == "6 more"


def test_a_part_that_cannot_be_imported_leaves_the_others(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PARTS", {"nowhere": 0.5, "machine": 0.5})
    status, saved = run(place, tmp_path / "found.json")
    assert status == 1
    assert "No module named 'benchmarks.gpu_check.nowhere'" in saved["records"][0]["figure"]
    assert {one["part"] for one in saved["records"]} == {"nowhere", "machine"}


FRAGILE = """
import os, sys, time
from pathlib import Path
from benchmarks.gpu_check import records, worker

def items(place):
    def fine(name):
        return lambda: iter([records.Record("machine", name, records.RIGHT)])
    def down():
        os._exit(9)
        yield
    yield records.Item("first", fine("first"))
    yield records.Item("down", down)
    yield records.Item("last", fine("last"))

worker.items_of = lambda part, place: items(place)
worker.PARTS = {"machine": 1.0}
sys.exit(worker.main())
"""


@pytest.mark.slow
def test_a_kernel_that_brings_the_process_down_is_named_and_the_rest_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    found = command._in_processes(10.0, "fragile")
    assert [(one.name, one.state) for one in found] == [
        ("first", RIGHT),
        ("down", FAILED),
        ("last", RIGHT),
    ]
    assert found[1].figure == "the process ended with status 9"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks(["gpu-check", "--minutes", "8"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "gpu-check needs an NVIDIA GPU and a CUDA build of torch; torch sees no GPU"
    ]


BARE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in {"xformers", "mslk", "omegaconf", "jsonargparse", "lightning", "pytest", "numpy",
                   "torchmetrics", "transformers", "platformdirs", "fsspec", "tqdm", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=top)
sys.meta_path.insert(0, Missing())
import importlib
from benchmarks.gpu_check import command, worker
from benchmarks.gpu_check import cases
from benchmarks.gpu_check.place import Place
place = Place(device="cpu", kernels=())
for part in worker.PARTS:
    list(worker.items_of(part, place))
assert cases.hard_shapes() and next(cases.presets()) and next(cases.random_specs(3, 1))
cases.load("contracts.kernels.reference")
print("fine")
"""


@pytest.mark.slow
def test_torch_alone_will_do() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BARE], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["fine"], done.stderr[-2000:]


def test_wrong_minutes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--minutes", "0"])
    assert "--minutes must be > 0, got 0" in capsys.readouterr().err


def test_the_window_of_the_check_is_held_by_every_kernel() -> None:
    from benchmarks.gpu_check.place import cuda_kernels

    assert set(cuda_kernels()) <= set(KERNELS)
    assert isinstance(sp.Window(1, 1), sp.Pattern)
