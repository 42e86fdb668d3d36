"""Text pictures: their cells against the oracle, their headings, their width."""

import io

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp


def cells_of(picture: str) -> Tensor:
    """Read the half blocks of the only picture back."""
    lines = [line[1:-1] for line in picture.splitlines() if line.startswith("│")]
    pairs = [[divmod(" ▀▄█".index(mark), 2) for mark in line] for line in lines]
    rows = [[bool(pair[half]) for pair in line] for line in pairs for half in (1, 0)]
    return torch.tensor(rows)


def hashes_of(picture: str) -> Tensor:
    lines = [line for line in picture.splitlines() if set(line) <= set("#. ") and line]
    return torch.tensor([[mark == "#" for mark in line.split(" ")] for line in lines])


PATTERNS = [
    sp.Window(3, 1, dilation=2) | sp.Global((5,)),
    sp.RandomBlocks(4, 2),
    sp.Causal() & ~sp.Strided(3),
]


@pytest.mark.parametrize("length", [1, 17, 32])
@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_the_marks_are_the_visible_pairs(pattern: sp.Pattern, length: int) -> None:
    mask = sp.dense_mask(pattern, length, heads=1, layers=4)[0]
    shown = sp.show(pattern, length, scale=1, width=80)
    blocks = cells_of(shown)
    assert torch.equal(blocks[:length], mask)
    assert not blocks[length:].any()
    assert torch.equal(hashes_of(sp.show(pattern, length, scale=1, width=80, ascii=True)), mask)
    assert f"every head: {int(mask.sum()) / length**2:.1%} visible" in shown


@pytest.mark.parametrize("length", [100, 3001])
def test_a_mark_stands_for_a_square_where_the_width_is_short(length: int) -> None:
    pattern = sp.Window(9, 0) | sp.Global((50,), rows=False)
    shown = sp.show(pattern, length, width=42, scale=1)
    size = -(-length // 40)
    assert f"each mark is {size} x {size} pairs, of which any is visible" in shown.replace(
        "\n", " "
    )
    mask = sp.dense_mask(pattern, length, heads=1)[0]
    padded = torch.nn.functional.pad(mask, (0, -length % size) * 2)
    squares = padded.unflatten(1, (-1, size)).unflatten(0, (-1, size)).any(3).any(1)
    assert torch.equal(cells_of(shown)[: len(squares)], squares)
    assert f"{int(mask.sum()) / length**2:.1%} visible" in shown


@pytest.mark.parametrize("name", sp.names())
@pytest.mark.parametrize("width", [30, 80])
def test_every_preset_fits_the_width(name: str, width: int) -> None:
    shown = sp.show(sp.get(name), width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert "█" in shown
    hashes = sp.show(sp.get(name), width=width, ascii=True)
    assert max(map(len, hashes.splitlines())) <= width
    assert "each mark" not in shown + hashes


def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert sp.show(sp.Full(), 300) == sp.show(sp.Full(), 300, width=50)
    with pytest.raises(ValueError, match="width must be >= 8, got 3"):
        sp.show(sp.Full(), width=3)


def test_the_heading_tells_pattern_scale_layer_and_heads() -> None:
    pattern = sp.PerHead(sp.Window(sp.linear(16, 64), 0), sp.BatchGlobal())
    shown = sp.show(pattern, 48, heads=4, layer=1, layers=3, scale="auto", width=100)
    lines = shown.splitlines()
    assert lines[0] == repr(pattern)
    assert lines[1] == (
        "48 tokens; windows, blocks and positions divided by 4; global tokens are an example"
    )
    headings = [line.split(":")[0] for line in lines if line.startswith("layer")]
    assert headings == ["layer 1 of 3, heads 0-1", "layer 1 of 3, heads 2-3"]
    random = sp.show(sp.RandomBlocks(4, 2), heads=2, width=80)
    assert "layer 0 of 4, every head, head 0 drawn: " in random
    with pytest.raises(ValueError, match=r"layer must be in 0\.\.2 \(layers=3\), got 3"):
        sp.show(pattern, layer=3, layers=3)


def test_what_was_asked_for_is_drawn_as_it_is() -> None:
    pattern = sp.Window(16, 0)
    asked = sp.show(pattern, 40, width=100, ascii=True)
    assert "divided" not in asked
    rows = [line.split(" ") for line in asked.splitlines() if line[:1] in (".", "#")]
    seen = torch.tensor([[cell == "#" for cell in row] for row in rows])
    assert torch.equal(seen, sp.dense_mask(pattern, 40, heads=1).reshape(40, 40))
    # Without a length the picture is to show the structure, and says how.
    assert "divided by 2" in sp.show(sp.Window(64, 0), width=80)
    assert "divided by 4" in sp.show(pattern, 40, scale=0.25, width=80)


def test_nothing_is_printed_until_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    shown = sp.show(sp.Window(1, 1), 8, width=80)
    assert capsys.readouterr().out == ""
    assert repr(shown) == str(shown)
    file = io.StringIO()
    assert sp.show(sp.Window(1, 1), 8, width=80, file=file) == shown
    assert file.getvalue() == shown + "\n"


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"write sp\.get\('mistral'\)"):
        sp.show("mistral")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length of a picture must be >= 1, got -1"):
        sp.show(sp.Full(), -1)
