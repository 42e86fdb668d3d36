"""The file of a grid: settings, and what is known of each call, so that a run can go on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.auto.grid import Cell
from benchmarks.auto.measuring import Outcome

Settings = Mapping[str, Any]


def save(path: Path, settings: Settings, outcomes: Iterable[Outcome]) -> None:
    """Write everything; a run that is stopped leaves what it had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"settings": settings, "calls": [asdict(one) for one in outcomes]}, indent=1)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def load(path: Path) -> tuple[dict[str, Any], list[Outcome]]:
    """Return settings and outcomes of a file.

    Raises:
        ValueError: It is no file of a grid.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        outcomes = [Outcome(**{**one, "cell": Cell(**one["cell"])}) for one in kept["calls"]]
        return dict(kept["settings"]), outcomes
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no grid of auto: {error!r}") from error


def resumed(path: Path, settings: Settings) -> list[Outcome]:
    """Return the outcomes of a file that was measured under the same settings.

    Raises:
        ValueError: The settings differ, or it is no file of a grid.
    """
    before, outcomes = load(path)
    other = [name for name in settings if before.get(name) != settings[name]]
    if other:
        told = ", ".join(f"{name} {before.get(name)!r}, now {settings[name]!r}" for name in other)
        raise ValueError(f"{path} was measured with other settings: {told}; name another file")
    return outcomes
