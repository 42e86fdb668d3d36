"""Reads `cards.json`: rates by card, and tolerances, each with where its numbers come from.

A line of rates is for the cards whose name contains its `card`, as "H100"; "any" is for all others.
Of several lines that fit, the one with the longest name counts, number by number, so that a line
of a card need only hold what was measured there. `source` is "guessed", or says when and on which
card it was measured; `python -m benchmarks gpu-check` proposes such lines.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import Any

import torch

ANY = "any"
"""The card of lines that are for all cards."""


class Rates:
    """The declared rates of a kernel on a card.

    Attributes:
        call_seconds: Time of a call that computes nothing.
        flop_rate: Operations a second, by the name of a type.
        element_rate: Elements moved in a second; 0 where the kernel does not go by that.
        partial_cost: What a block that needs a mask costs more than a full one.
        sources: Where the numbers come from, the line that counts most first.
    """

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.call_seconds: float = _first(lines, "call_seconds", 0.0)
        self.element_rate: float = _first(lines, "element_rate", 0.0)
        self.partial_cost: float = _first(lines, "partial_cost", 1.0)
        self.flop_rate: dict[str, float] = {}
        for line in reversed(lines):
            self.flop_rate.update(line.get("flop_rate", {}))
        self.sources = tuple(str(line["source"]) for line in lines)

    def flops(self, dtype: torch.dtype) -> float:
        """Return the operations a second in a type; of a type that is not there, the lowest."""
        name = str(dtype).removeprefix("torch.")
        return self.flop_rate.get(name) or min(self.flop_rate.values())


def _first(lines: list[dict[str, Any]], name: str, default: float) -> float:
    return next((float(line[name]) for line in lines if name in line), default)


@lru_cache(maxsize=1)
def table() -> dict[str, list[dict[str, Any]]]:
    """Return what is in the file."""
    text = resources.files(__package__).joinpath("cards.json").read_text(encoding="utf-8")
    made: dict[str, list[dict[str, Any]]] = json.loads(text)
    return made


@lru_cache(maxsize=1)
def card_name() -> str:
    """Return the name of this machine's GPU, or "any" where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ANY


@lru_cache(maxsize=64)
def rates(kernel: str, card: str | None = None) -> Rates:
    """Return the rates of a kernel.

    Args:
        kernel: Its name.
        card: Name of a card; that of this machine by default.

    Raises:
        LookupError: The file has none of that kernel for all cards.
    """
    name = card_name() if card is None else card
    lines = [
        line
        for line in table()["rates"]
        if line["kernel"] == kernel and (line["card"] == ANY or line["card"] in name)
    ]
    if not any(line["card"] == ANY for line in lines):
        raise LookupError(f"cards.json has no rates of kernel {kernel!r} for card {ANY!r}")
    lines.sort(key=lambda line: (line["card"] != ANY, len(line["card"])), reverse=True)
    return Rates(lines)


def tolerances(kernel: str) -> dict[torch.dtype, tuple[float, float]]:
    """Return the tolerances of a kernel by type: of its output, and of its gradients."""
    return {
        getattr(torch, line["dtype"]): (float(line["forward"]), float(line["gradient"]))
        for line in table()["tolerances"]
        if line["kernel"] == kernel
    }
