"""The measured choice of a kernel: each that can serve is timed once, and the result is kept.

What was measured is kept in memory and as one small JSON file for each case, under everything that
matters: pattern, shape, type, masks, whether gradients are needed, device, versions, threads. The
folder is `$SPARSE_PATTERNS_CACHE`, or the user's cache folder; to measure again, delete it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
import warnings
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from sparse_patterns.config.files import CACHE_VARIABLE, cache_folder, whole_file
from sparse_patterns.config.handles import intern
from sparse_patterns.kernels.base import Call, Kernel, Request, accumulation_dtype
from sparse_patterns.kernels.scores.terms import Scores
from sparse_patterns.lowering.plan import Plan
from sparse_patterns.spec.atoms import BatchGlobal, Rule, SameDocument
from sparse_patterns.spec.base import uses

ROUNDS = 3
"""Timed runs of each kernel, of which the fastest counts; one more before them is not timed."""

HOPELESS = 50.0
"""A kernel that should take this many times as long as the best, by declared rates, is not run."""

Times = dict[str, float]

_known: dict[str, Times] = {}


def fastest(call: Call, plan: Plan, able: Mapping[str, Kernel]) -> str:
    """Return the name of the kernel that serves a call fastest, measured on it the first time.

    Args:
        call: The call; its tensors are only read.
        plan: Its plan.
        able: The kernels that can serve it, by name.
    """
    seconds = known(call.request, able)
    if seconds is None:
        seconds = measure(call, plan, able)
        _remember(call.request, able, seconds)
    return min(seconds, key=lambda name: seconds[name])


def known(request: Request, able: Mapping[str, Kernel]) -> Times | None:
    """Return the seconds measured before, or None.

    Args:
        request: What is asked for.
        able: The kernels that can serve it, by name.
    """
    key = _key(request, able)
    text = json.dumps(key, sort_keys=True)
    if text in _known:
        return _known[text]
    if uses(request.pattern, Rule):
        return None  # a function has no name that another process would know it by
    try:
        kept = json.loads(_file(text).read_text(encoding="utf-8"))
        seconds = {str(name): float(value) for name, value in kept["seconds"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # missing or incomplete: it is measured and written again
    if kept.get("key") != key or not seconds or not seconds.keys() <= able.keys():
        return None
    _known[text] = seconds
    return seconds


@torch.no_grad()
def measure(call: Call, plan: Plan, able: Mapping[str, Kernel]) -> Times:
    """Time each kernel on a call, forward or, where gradients are needed, forward and backward.

    A kernel that runs out of memory, or that has no hope by its declared rates, is left out.

    Raises:
        torch.OutOfMemoryError: All of them ran out of memory.
    """
    declared = {name: kernel.seconds(call.request, plan) for name, kernel in able.items()}
    best = min(declared.values())
    seconds: Times = {}
    failure = None
    for name, kernel in able.items():
        if declared[name] > HOPELESS * best:
            continue
        try:
            time_once(kernel, call, plan)
            seconds[name] = min(time_once(kernel, call, plan) for _ in range(ROUNDS))
        except torch.OutOfMemoryError as error:
            failure = error
    if failure is not None and not seconds:
        raise failure
    return seconds


def example_call(request: Request, device: torch.device | str) -> Call:
    """Return a call with random tensors, for measuring without a batch.

    No key is padded, the first token is global where that is given at the call, and documents are a
    quarter of the length.
    """
    generator = torch.Generator(device).manual_seed(0)

    def draw(heads: int, length: int) -> torch.Tensor:
        shape = (request.batch, heads, length, request.head_dim)
        x = torch.randn(shape, generator=generator, device=device)
        return x.to(request.dtype)

    lengths = (
        (request.heads, request.q_len),
        (request.kv_heads, request.kv_len),
        (request.kv_heads, request.kv_len),
    )
    q, k, v = (draw(*shape) for shape in lengths)
    own = None
    if request.global_qkv:
        own = (draw(*lengths[0]), draw(*lengths[1]), draw(*lengths[2]))
    dtype, of_heads = accumulation_dtype(request.dtype), (request.batch, request.heads)
    distances = 2 * max(1, request.q_len, request.kv_len) - 1
    scores = Scores(
        50.0 if request.softcap else None,
        torch.zeros(of_heads, dtype=dtype, device=device) if request.sinks else None,
        torch.zeros(*of_heads, distances, dtype=dtype, device=device)
        if request.distance_bias
        else None,
        request.bias_grad,
    )
    shape = (request.batch, request.kv_len)
    position = torch.arange(request.kv_len, device=device).expand(shape)
    return Call(
        request,
        q,
        k,
        v,
        own,
        position >= 0 if request.key_mask else None,
        position == 0 if request.global_mask and uses(request.pattern, BatchGlobal) else None,
        position * 4 // max(1, request.kv_len) if uses(request.pattern, SameDocument) else None,
        1 / max(1, request.head_dim) ** 0.5,
        0,
        scores,
    )


def forget() -> None:
    """Forget what this process has measured or read; the files stay."""
    _known.clear()


def time_once(kernel: Kernel, call: Call, plan: Plan) -> float:
    """Return the seconds of one run, the device's work included."""
    _wait(call.q.device)
    start = time.perf_counter()
    out, lse = kernel.forward(call, plan)
    if call.request.needs_grad:
        kernel.backward(call, plan, out, lse, torch.ones_like(out), None)
    _wait(call.q.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _key(request: Request, able: Mapping[str, Kernel]) -> dict[str, Any]:
    """Return everything that a time depends on, as plain data."""
    fields = {name: value for name, value in vars(request).items() if name != "pattern"}
    fields["dtype"] = str(request.dtype)
    fields["pattern"] = intern(request.pattern)
    return {**fields, "kernels": sorted(able), **_machine(request.device)}


def _machine(device: str) -> dict[str, Any]:
    """Return what of the machine matters for a time."""
    name, threads = _device_name(device), torch.get_num_threads()
    of_device = (
        {"device_name": name} if device == "cuda" else {"device_name": name, "threads": threads}
    )
    return {**of_device, **versions_of_libraries()}


@lru_cache(maxsize=8)
def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return f"{platform.processor() or platform.machine()} x{os.cpu_count()}"


@lru_cache(maxsize=1)
def versions_of_libraries() -> dict[str, str]:
    """Return the versions that a time depends on, "none" for what is not installed."""
    versions = {"torch": str(torch.__version__)}
    for name in ("sparse-patterns", "xformers", "triton"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "none"
    return versions


def _file(text: str) -> Path:
    return cache_folder() / "tuning" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def _remember(request: Request, able: Mapping[str, Kernel], seconds: Times) -> None:
    """Keep times in memory and on disk; a folder that cannot be written is told once."""
    key = _key(request, able)
    text = json.dumps(key, sort_keys=True)
    _known[text] = seconds
    if uses(request.pattern, Rule):
        return
    target = _file(text)
    try:
        content = json.dumps({"key": key, "seconds": seconds}, indent=1, sort_keys=True)
        with whole_file(target) as part:
            part.write_text(content, encoding="utf-8")
    except OSError as error:
        warnings.warn(
            f"what kernel='tune' measured cannot be kept in {target.parent}: {error}; "
            f"name another folder in ${CACHE_VARIABLE}",
            stacklevel=2,
        )
