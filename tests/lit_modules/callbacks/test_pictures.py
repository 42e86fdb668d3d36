"""Pictures of a run: each figure has its panel, each stage its mark."""

from pathlib import Path

import pytest

from lit_modules.callbacks.pictures import draw_curves

pytest.importorskip("matplotlib")

LOG = """step,train/loss,train/bpb,val/loss,val/bpb,test/bpb,train/tokens_per_second
10,2.0,2.9,,,,100
20,1.5,2.2,1.6,2.3,,100
30,1.4,2.0,1.5,2.2,2.1,100
"""


def test_losses_and_bits_have_panels_with_the_stages_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    seen = {}

    def look(figure: Figure, output: Path, **_: object) -> None:
        for axis in figure.axes:
            curves = {
                line.get_label(): list(line.get_ydata())
                for line in axis.lines
                if not line.get_label().startswith("_")
            }
            marks = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"]
            seen[axis.get_ylabel()] = curves, marks, [text.get_text() for text in axis.texts]

    monkeypatch.setattr(Figure, "savefig", look)
    (tmp_path / "metrics.csv").write_text(LOG)
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png", (0, 20), (512, 2048))
    assert seen == {
        "loss (nats)": (
            {"train/loss": [2.0, 1.5, 1.4], "val/loss": [1.6, 1.5]},
            [0, 20],
            ["512", "2,048"],
        ),
        "bits per byte": (
            {"train/bpb": [2.9, 2.2, 2.0], "val/bpb": [2.3, 2.2]},
            [0, 20],
            ["512", "2,048"],
        ),
    }


def test_an_empty_log_makes_an_empty_picture(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step\n")
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
