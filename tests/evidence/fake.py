"""A small row: a product of two matrices, trained for a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from evidence.protocol import Curve, Metric, Protocol, Row

PROTOCOL = Protocol(
    name="fake-row",
    question="Does a larger step go further?",
    arms={"large": {"rate": 0.1}, "small": {"rate": 0.01}},
    seeds=(0, 1, 2),
    metrics=(Metric("loss", "loss", 4), Metric("seconds", "seconds", 0, exact=False)),
    comparisons=(("large", "small"),),
    setup="five steps.",
    data="drawn.",
    paper="nothing.",
    shows="that.",
    does_not_show="more.",
    common={"steps": 5},
    curve=Curve("course", "steps", "loss"),
    same=("steps",),
)

times = iter(range(1000))


def measure(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train for some steps; the seconds differ each time."""
    weight = torch.randn(8, 8, requires_grad=True)
    target, course = torch.randn(8, 8), []
    for step in range(arm["steps"]):
        loss = (weight @ weight - target).square().mean()
        (gradient,) = torch.autograd.grad(loss, weight)
        weight = (weight - arm["rate"] * gradient).detach().requires_grad_()
        course.append([step, float(loss.detach())])
    return {
        "loss": course[-1][1],
        "course": course,
        "seconds": float(next(times)),
        "steps": arm["steps"],
    }


ROW = Row(PROTOCOL, measure)
