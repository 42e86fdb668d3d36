"""Both arms on a small encoder: as many steps, other figures, and a seed gives them twice."""

from __future__ import annotations

from pathlib import Path

import lightning

from evidence.runs import long_against_cut


def test_a_seed_gives_the_same_figures_twice(small: Path) -> None:
    shared = {
        **long_against_cut.PROTOCOL.common,
        "reviews": {"train": 8, "test": 4},
        "batch_size": 2,
        "lengths": [2000],
    }
    found = {}
    for name, arm in {"cut": (32, None), "long": (64, 8), "again": (64, 8)}.items():
        lightning.seed_everything(0, verbose=False)
        sizes = dict(zip(("max_length", "window"), arm, strict=True))
        found[name] = long_against_cut.measure({**shared, "longer": 800, **sizes}, 0, small)
    assert found["again"] == found["long"]
    assert found["cut"]["loss"] != found["long"]["loss"]
    assert found["cut"]["steps"] == found["long"]["steps"] == 4
    assert found["long"]["by_length"] == [[2000, found["long"]["accuracy"]]]
