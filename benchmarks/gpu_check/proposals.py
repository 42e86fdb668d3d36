"""Lines for the kernels' file of rates and tolerances, from what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.gpu_check.records import RIGHT, Record

ROOM = 1.5
"""What a proposed tolerance is wider than the largest difference."""

RATE_PATTERN = "window-1024"
"""The pattern whose forward pass gives the rate of a kernel."""


def proposed(
    records: Iterable[Record], about: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Return lines as `sparse_patterns/kernels/rates/cards.json` has them.

    Args:
        records: What the check found.
        about: The card, the date and the versions.
    """
    card = str(about.get("card", about.get("processor", "unknown")))
    source = f"measured {str(about.get('date', ''))[:10]} on {card}, torch {about.get('torch')}"
    records = list(records)
    rates = []
    for record in records:
        numbers = record.numbers
        if numbers.get("pattern") == RATE_PATTERN and numbers.get("direction") == "forward":
            [seconds] = numbers["seconds_of"].values()
            rates.append(
                {
                    "kernel": numbers["kernel"],
                    "card": card,
                    "flop_rate": {"bfloat16": numbers["flops"] / seconds},
                    "source": source,
                }
            )
    largest: dict[tuple[str, str], tuple[float, float]] = {}
    for record in records:
        if record.state == RIGHT and "gradient" in record.numbers:
            key = (record.numbers["kernel"], record.numbers["dtype"])
            before = largest.get(key, (0.0, 0.0))
            own = (record.numbers["forward"], record.numbers["gradient"])
            largest[key] = (max(before[0], own[0]), max(before[1], own[1]))
    tolerances = [
        {
            "kernel": kernel,
            "dtype": dtype,
            "forward": float(f"{ROOM * forward:.2g}"),
            "gradient": float(f"{ROOM * gradient:.2g}"),
            "source": source,
        }
        for (kernel, dtype), (forward, gradient) in largest.items()
    ]
    return {"rates": rates, "tolerances": tolerances}
