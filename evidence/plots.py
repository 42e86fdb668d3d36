"""One plot a row: each seed a dot or a thin line, the mean of an arm a bar or a thick line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from evidence.protocol import Curve, Protocol
from evidence.records import Record

Records = Mapping[tuple[str, int], Record]


def draw(protocol: Protocol, found: Records, path: Path) -> None:
    """Save the plot of a row, the same bytes for the same records."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": protocol.name, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        FigureCanvasSVG(figure)
        panel = figure.add_subplot()
        if protocol.curve:
            _curves(panel, protocol, protocol.curve, found)
        else:
            _dots(panel, protocol, found)
        panel.grid(alpha=0.3)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _dots(panel, protocol: Protocol, found: Records) -> None:  # type: ignore[no-untyped-def]
    main = protocol.metrics[0]
    for place, arm in enumerate(protocol.arms):
        values = [found[arm, s].figures[main.name] for s in protocol.seeds if (arm, s) in found]
        if values:
            panel.plot([place] * len(values), values, "o", color=f"C{place}", alpha=0.5)
            mean = fmean(values)
            panel.plot([place - 0.25, place + 0.25], [mean, mean], color=f"C{place}", linewidth=2)
    panel.set_xticks(range(len(protocol.arms)), [arm.replace("-", "\n") for arm in protocol.arms])
    panel.set_xlim(-0.5, len(protocol.arms) - 0.5)
    panel.set_ylabel(main.label)


def _curves(  # type: ignore[no-untyped-def]
    panel, protocol: Protocol, curve: Curve, found: Records
) -> None:
    for place, arm in enumerate(protocol.arms):
        curves = [found[arm, s].figures[curve.name] for s in protocol.seeds if (arm, s) in found]
        for points in curves:
            panel.plot(*zip(*points, strict=True), color=f"C{place}", alpha=0.35, linewidth=0.8)
        if curves:
            # Seeds of an arm are measured at the same places; the mean ends with the shortest.
            means = [
                (fmean(p[0] for p in points), fmean(p[1] for p in points))
                for points in zip(*curves, strict=False)
            ]
            panel.plot(*zip(*means, strict=True), ".-", color=f"C{place}", linewidth=2, label=arm)
    if curve.log_x:
        panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    panel.set_xlabel(curve.x)
    panel.set_ylabel(curve.y)
    if found:
        panel.legend(fontsize=8)
