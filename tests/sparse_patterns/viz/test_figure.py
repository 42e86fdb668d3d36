"""Figures: the panels they have, what they say, and that nothing else happens."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.viz.figure import COLOURS
from sparse_patterns.viz.reasons import KINDS

pytest.importorskip("matplotlib")

DAILY = ("longformer", "bigbird", "neighborhood")


def names_of(figure: Any) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def legend_of(figure: Any) -> tuple[list[str], str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()], legend.get_title().get_text()


@pytest.mark.parametrize(
    "name",
    [name if name in DAILY else pytest.param(name, marks=pytest.mark.long) for name in sp.names()],
)
def test_every_preset(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    figure = sp.draw(sp.get(name), path=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert names_of(figure)[-1].startswith("receptive field of position")
    kinds, notes = legend_of(figure)
    assert set(kinds) <= {*KINDS, "not visible"}
    assert ("divided by" in notes) == (name != "full")


def test_cells_are_the_pairs_of_the_pattern() -> None:
    pattern = sp.Window(3, 1) | sp.Global((7,))
    figure = sp.draw(pattern, 20)
    (image,) = figure.axes[0].get_images()
    drawn = torch.as_tensor(image.get_array())
    assert torch.equal(drawn >= 0, sp.dense_mask(pattern, 20, heads=1)[0])
    assert {KINDS[kind] for kind in drawn.unique().tolist() if kind >= 0} == {
        "window",
        "global row",
        "global column",
    }
    assert legend_of(figure)[0] == ["global row", "global column", "window", "not visible"]
    assert figure.axes[0].get_title(loc="right") == f"{float((drawn >= 0).float().mean()):.0%}"


def test_what_one_query_sees_on_its_grid() -> None:
    pattern = sp.GridWindow((5, 4), (1, 2), (2, 1), prefix=1) | sp.Global((0, 20))
    figure = sp.draw(pattern, 21)
    assert names_of(figure)[1] == "query at (2, 2) of 5 x 4"
    drawn = torch.as_tensor(figure.axes[1].get_images()[0].get_array())
    # 11 is the query, which is drawn in black; the class token is not on the grid.
    seen = (drawn >= 0) & (drawn < len(KINDS))
    expected = sp.dense_mask(pattern, 21, heads=1)[0, 11, 1:].view(5, 4)
    assert drawn[2, 2] == len(KINDS)
    seen[2, 2] = True
    assert torch.equal(seen, expected)
    assert KINDS[drawn[0, 1]] == "grid window"
    assert KINDS[drawn[4, 3]] == "global column"
    assert figure.axes[1].get_xlabel() == f"sees {int(expected.sum()) + 1} tokens"
    volume = sp.draw(sp.GridWindow((3, 4, 5), 1)).axes[1].get_images()[0].get_array()
    assert volume.shape == (4, 3 * 5 + 2)


def test_a_panel_for_each_layer_and_group_of_heads() -> None:
    pattern = sp.Window(sp.linear(1, 3), 0, dilation=(1, 1, 2))
    figure = sp.draw(pattern, layers=3)
    assert names_of(figure) == [
        "layer 0, heads 0-1",
        "layer 1, heads 0-1",
        "layer 2, heads 0-1",
        "layer 0, head 2",
        "layer 1, head 2",
        "layer 2, head 2",
        "receptive field of position 47",
    ]
    assert names_of(sp.draw(sp.Full()))[0] == "every layer, every head"


def test_many_layers_are_wrapped() -> None:
    figure = sp.draw(sp.Window(sp.linear(1, 8), 0), 16, layers=8)
    boxes = [axes.get_subplotspec() for axes in figure.axes]
    assert [(box.rowspan.start, box.colspan.start) for box in boxes] == [
        *((0, column) for column in range(6)),
        *((1, column) for column in range(2)),
        (2, 0),
    ]


def test_the_receptive_field_of_a_causal_pattern_is_that_of_the_last_position() -> None:
    figure = sp.draw(sp.Window(2, 0), 20, layers=3)
    (image,) = figure.axes[-1].get_images()
    shade = torch.as_tensor(image.get_array())
    assert (shade[:, -1] == -1).all()
    assert ((shade >= 0) & (shade < 3)).sum(1).tolist() == [2, 4, 6]
    assert names_of(figure)[-1] == "receptive field of position 19"
    counts = [text.get_text() for text in figure.axes[-1].texts]
    assert counts == ["3", "5", "7"]
    assert names_of(sp.draw(sp.Window(2, 1), 20))[-1] == "receptive field of position 10"


def test_the_title_and_the_notes_tell_what_was_done() -> None:
    pattern = sp.Window.around(512) | sp.BatchGlobal()
    figure = sp.draw(pattern)
    assert figure.get_suptitle() == repr(pattern)
    assert legend_of(figure)[1].startswith(
        "48 tokens; windows, blocks and positions divided by 16; global tokens are an example"
    )
    as_it_is = sp.draw(pattern, 64, scale=1, title="mine", global_mask=torch.arange(64) == 3)
    assert as_it_is.get_suptitle() == "mine"
    notes = legend_of(as_it_is)[1]
    assert notes.startswith("64 tokens; ")
    assert "divided" not in notes
    assert "example" not in notes
    assert "drawn for the first" in legend_of(sp.draw(sp.RandomBlocks(4, 2)))[1]


def test_large_pictures_are_averaged_and_have_no_grid() -> None:
    (image,) = sp.draw(sp.Window(60, 0), 128).axes[0].get_images()
    assert image.get_interpolation() == "antialiased"
    (image,) = sp.draw(sp.Window(9, 0), 48).axes[0].get_images()
    assert image.get_interpolation() == "nearest"


def test_saved_as_svg(tmp_path: Path) -> None:
    path = tmp_path / "picture.svg"
    sp.draw(sp.Window(2, 2), 8, path=path)
    assert "<svg" in path.read_text(encoding="utf-8")


def test_every_kind_has_a_colour_of_its_own() -> None:
    assert list(COLOURS) == list(KINDS)
    assert len(set(COLOURS.values())) == len(KINDS)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"write sp\.get\('mistral'\)"):
        sp.draw("mistral")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length of a picture must be >= 1, got 0"):
        sp.draw(sp.Full(), 0)
    with pytest.raises(ValueError, match="need 3"):
        sp.draw(sp.Window((1, 2), 0), heads=3)


@pytest.mark.slow
def test_no_global_state_of_pyplot_is_made() -> None:
    code = (
        "import sys, sparse_patterns as sp\n"
        "assert 'matplotlib' not in sys.modules\n"
        "sp.draw(sp.Window(2, 2), 8)\n"
        "assert 'matplotlib.figure' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"sp\.draw needs matplotlib: .*sparse-patterns\[plot\]"):
        sp.draw(sp.Full())
