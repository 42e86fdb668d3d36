"""Named patterns of the literature, in a registry that other packages add to.

Each preset serves any number of layers. Numbers called `window` may be a schedule over layers, a
list with one number per layer or a tuple with one per head, as in `Window`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sparse_patterns.registry import Record, Registry
from sparse_patterns.spec.algebra import PerHead, PerLayer
from sparse_patterns.spec.atoms import (
    BatchGlobal,
    Causal,
    Global,
    LocalBlock,
    RandomBlocks,
    Strided,
    Summary,
    Window,
)
from sparse_patterns.spec.base import Full, Pattern, union
from sparse_patterns.spec.fields import boolean, integer
from sparse_patterns.spec.grids import GridWindow
from sparse_patterns.spec.schedules import (
    Number,
    Schedule,
    adding,
    linear,
    map_value,
    number,
    spread,
)

F = TypeVar("F", bound=Callable[..., Any])

# The paper's small model: windows by depth, dilation of the upper half.
_GROWING = linear(32, 512)
_UPPER = spread(1, 1, 1, 2, 3, 4)

REGISTRY: Registry[Pattern] = Registry("pattern", entry_points="sparse_patterns.patterns")


def register(name: str) -> Callable[[F], F]:
    """Decorate a function that returns a pattern to make it available as `name`.

    Other packages may instead declare an entry point of the group `sparse_patterns.patterns`.

    Args:
        name: Lower-case words joined by hyphens.

    Raises:
        ValueError: The name is malformed or taken, or the function has no docstring.
    """
    return REGISTRY.register(name)


def get(name: str, /, **fields: Any) -> Pattern:
    """Return the pattern of a name.

    Args:
        name: One of `names()`.
        **fields: Fields of the preset; `describe(name)` lists them.

    Raises:
        ValueError: The name or a field is unknown, or a value is not allowed.
        TypeError: A value has another type, or what is registered does not return a pattern.
    """
    pattern: object = REGISTRY.get(name, **fields)
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern {name!r} must be a Pattern, its function returned {pattern!r}")
    return pattern


def names() -> tuple[str, ...]:
    """Return the names of all patterns, sorted."""
    return REGISTRY.names()


def describe(name: str) -> Record:
    """Return what is known about a name: summary, fields with defaults, place of definition.

    Raises:
        ValueError: There is no such name.
    """
    return REGISTRY.describe(name)


def _last(name: str, keys: Number) -> Window:
    """Return the causal window of `keys` keys, the query itself included."""
    keys = number(name, keys, 1)
    if isinstance(keys, Schedule):
        return Window.before(keys - 1)
    return Window.before(map_value(keys, adding(-1)))


@register("full")
def full(causal: bool = False) -> Pattern:
    """Every pair, or every key up to the query.

    Args:
        causal: Whether a query sees only the keys up to itself.
    """
    return Causal() if boolean("causal", causal) else Full()


@register("longformer")
def longformer(window: Number = 512, dilation: Number = 1) -> Pattern:
    """Window on both sides, and global tokens that each example brings (Longformer).

    Beltagy et al. 2020, section 3.1. The global tokens come as `global_mask`.

    Args:
        window: Keys seen besides the query, half on each side; even.
        dilation: Distance between adjacent keys of the window, in tokens.
    """
    return Window.around(window, dilation) | BatchGlobal()


@register("longformer-causal")
def longformer_causal(
    window: Number = _GROWING,
    dilation: Number = _UPPER,
    dilated_heads: int = 2,
) -> Pattern:
    """Causal window growing with depth, dilated on two heads of the upper layers (Longformer).

    Beltagy et al. 2020, section 4: of 12 layers the lower six are not dilated, then pairs of layers
    by 2, 3 and 4. The first head is never dilated, so that no layer leaves gaps.

    Args:
        window: Keys before the query, by layer.
        dilation: Distance between adjacent keys on the dilated heads, by layer.
        dilated_heads: How many heads are dilated; a model with fewer other heads dilates fewer.
    """
    plain, dilated = Window.before(window), Window.before(window, dilation)
    return PerHead(plain, *[dilated] * integer("dilated_heads", dilated_heads, 0), plain, rest=True)


@register("transformer-xl")
def transformer_xl(segment: int = 512, memory: int = 512) -> Pattern:
    """Causal window that covers a segment and the memory before it (Transformer-XL).

    Dai et al. 2019, section 3.2; the defaults are those of its 12-layer model of enwik8. Every
    query sees as many keys as the last one of a segment does there.

    Args:
        segment: Tokens of a segment.
        memory: Tokens remembered from before the segment.
    """
    return _last("segment + memory", integer("segment", segment, 1) + integer("memory", memory, 0))


@register("sparse-transformer-strided")
def sparse_transformer_strided(stride: int = 128, alternate: bool = False) -> Pattern:
    """The last `stride` keys and every `stride`-th key before (Sparse Transformer, strided).

    Child et al. 2019, section 4.2; meant for data with a period, such as the rows of an image.

    Args:
        stride: Keys before the query in the window, and the distance of the others.
        alternate: Give the window to the first half of the heads and the strided keys to the
            second, instead of both to every head; needs an even number of heads.
    """
    window, strided = Window.before(integer("stride", stride, 1)), Strided(stride)
    if boolean("alternate", alternate):
        return PerHead(window, strided & Causal())
    return (window | strided) & Causal()


@register("sparse-transformer-fixed")
def sparse_transformer_fixed(
    block: int = 128, columns: int = 8, alternate: bool = False
) -> Pattern:
    """The own block and the last keys of every earlier one (Sparse Transformer, fixed).

    Child et al. 2019, section 4.2; meant for text.

    Args:
        block: Tokens of a block.
        columns: Keys at the end of each block that later queries see; 8, 16 or 32 in the paper.
        alternate: Give the own block to the first half of the heads and the ends of blocks to the
            second, instead of both to every head; needs an even number of heads.
    """
    local, summary = LocalBlock(block), Summary(block, columns)
    if boolean("alternate", alternate):
        return PerHead(local & Causal(), summary & Causal())
    return (local | summary) & Causal()


@register("bigbird")
def bigbird(
    block: int = 64, per_row: int = 3, global_tokens: int | None = None, seed: int = 0
) -> Pattern:
    """Window, leading global tokens and random blocks (BigBird).

    Zaheer et al. 2020, section 2. The authors' code cuts the window at the edges of blocks; here
    each query sees one block's length on either side.

    Args:
        block: Tokens of a block.
        per_row: Random key blocks that each block of queries sees.
        global_tokens: Leading tokens that see and are seen by all; one block if None (the paper's
            base model has two).
        seed: Seed of the random blocks.
    """
    random = RandomBlocks(block, per_row, seed)
    leading = block if global_tokens is None else integer("global_tokens", global_tokens, 0)
    return Window(block, block) | Global(tuple(range(leading))) | random


@register("streaming")
def streaming(window: Number = 1020, sinks: int = 4) -> Pattern:
    """Causal window and attention sinks: the first tokens stay visible (StreamingLLM).

    Xiao et al. 2023, section 3.2.

    Args:
        window: Last keys that a query sees, itself included.
        sinks: Leading tokens that every later query sees.
    """
    first = Global(tuple(range(integer("sinks", sinks, 0))), rows=False)
    return (_last("window", window) | first) & Causal()


@register("mistral")
def mistral(window: Number = 4096) -> Pattern:
    """Causal window (Mistral).

    Jiang et al. 2023, section 2.

    Args:
        window: Last keys that a query sees, itself included, as `sliding_window` of the released
            model.
    """
    return _last("window", window)


@register("local-global")
def local_global(window: Number = 1024, every: int = 6, causal: bool = True) -> Pattern:
    """Window, and every n-th layer sees everything (as in Gemma 3).

    A model with fewer than `every` layers has windows only.

    Args:
        window: Last keys that a query sees, itself included; without `causal`, keys besides the
            query, half on each side.
        every: Period in layers; its last layer sees everything, so 1 leaves no windows.
        causal: Whether a query sees only the keys up to itself.
    """
    local = _last("window", window) if boolean("causal", causal) else Window.around(window)
    others = [local] * (integer("every", every, 1) - 1)
    return PerLayer(*others, full(causal), repeat=True) if others else full(causal)


@register("neighborhood")
def neighborhood(
    shape: Sequence[int] = (14, 14), radius: Any = 3, dilation: Any = 1, class_token: bool = True
) -> Pattern:
    """Each place of a grid sees those around it, and a class token sees and is seen by all.

    Hassani et al. 2023, section 3, for images as rows of patches; at the edges of the grid the
    window is cut, where theirs is moved inwards.

    Args:
        shape: Places of the grid in each of one to three dimensions.
        radius: Places seen on either side, as in `GridWindow`: an int, one per dimension (tuple),
            or by layer.
        dilation: Places between adjacent keys, in the same forms.
        class_token: Whether a class token comes before the grid.
    """
    first = int(boolean("class_token", class_token))
    return _with_class_token(GridWindow(shape, radius, dilation, first), class_token)


@register("axial")
def axial(
    shape: Sequence[int] = (14, 14), alternate: bool = False, class_token: bool = True
) -> Pattern:
    """Each place of a grid sees its own line in every dimension, such as its row and its column.

    Ho et al. 2019, section 3.

    Args:
        shape: Places of the grid in each of two or three dimensions.
        alternate: Give each layer one of the dimensions in turn, the last dimension (the rows of an
            image) first, as in the paper, instead of all of them to every layer.
        class_token: Whether a class token comes before the grid, which all layers see.
    """
    sides, first = GridWindow(shape, 0).shape, int(boolean("class_token", class_token))
    lines = []
    for axis in reversed(range(len(sides))):
        radius = tuple(side - 1 if at == axis else 0 for at, side in enumerate(sides))
        lines.append(GridWindow(sides, radius, prefix=first))
    if boolean("alternate", alternate):
        return PerLayer(*(_with_class_token(one, class_token) for one in lines), repeat=True)
    return _with_class_token(union(*lines), class_token)


def _with_class_token(pattern: Pattern, class_token: bool) -> Pattern:
    return Global((0,)) | pattern if class_token else pattern
