"""The atoms: what attends to what, as frozen plain data.

Query `i` and key `j` are absolute positions in one sequence. Each atom is a set of visible pairs
`(i, j)`; `sparse_patterns.spec.oracle` holds the definition that everything else is tested against.
Numeric fields of `Window` are an int, a tuple with one int per head, a list with one value per
layer, or a schedule over layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.fields import LARGEST, block_rows, boolean, integer, shown
from sparse_patterns.spec.schedules import Schedule, map_value, number


def _set(pattern: Pattern, field: str, value: object) -> None:
    """Store the checked form of a field while a frozen pattern is made."""
    object.__setattr__(pattern, field, value)


@dataclass(frozen=True, repr=False)
class Window(Pattern):
    """Keys at `i + t * dilation` for every integer `-left <= t <= right`.

    Args:
        left: Keys before the query, in steps of `dilation`; the query itself is not counted.
        right: Keys after the query, in steps of `dilation`.
        dilation: Distance between adjacent keys, in tokens.

    Raises:
        TypeError: A number is no int.
        ValueError: `left` or `right` is negative, `dilation` is below 1, or a number is above
            2**31 - 1.
    """

    left: Any
    right: Any
    dilation: Any = 1

    def __post_init__(self) -> None:
        """Check each number; a list becomes a schedule over layers."""
        _set(self, "left", number("window left", self.left, 0))
        _set(self, "right", number("window right", self.right, 0))
        _set(self, "dilation", number("window dilation", self.dilation, 1))

    @classmethod
    def around(cls, width: Any, dilation: Any = 1) -> Window:
        """Make the two-sided window of Hugging Face's `attention_window`.

        Args:
            width: Keys seen besides the query, half on each side; must be even.
            dilation: Distance between adjacent keys, in tokens.

        Raises:
            ValueError: A width is odd or negative.
        """

        def half(value: int) -> int:
            if value % 2:
                raise ValueError(
                    f"window width must be even (half on each side), got {value}; "
                    "write Window(left, right) for sides that differ"
                )
            return value // 2

        width = number("window width", width, 0)
        side = width.map(half) if isinstance(width, Schedule) else map_value(width, half)
        return cls(side, side, dilation)

    @classmethod
    def before(cls, left: Any, dilation: Any = 1) -> Window:
        """Make the causal window of the query and the `left` keys before it."""
        return cls(left, 0, dilation)


@dataclass(frozen=True, repr=False)
class Causal(Pattern):
    """Every key up to the query: `j <= i`."""


@dataclass(frozen=True, repr=False)
class Global(Pattern):
    """Tokens that every query sees and, with `rows`, that see every key.

    Args:
        tokens: Positions; negative ones count from the end, those beyond the sequence are absent.
        rows: Whether the tokens see every key too; False gives attention sinks.
    """

    tokens: tuple[int, ...]
    rows: bool = True

    def __post_init__(self) -> None:
        """Sort the tokens and drop repeated ones."""
        tokens: Any = self.tokens
        if isinstance(tokens, str) or not isinstance(tokens, Iterable):
            raise TypeError(f"global tokens must be a sequence of ints, got {shown(tokens)}")
        checked = {integer("global token", token, -LARGEST, LARGEST) for token in tokens}
        _set(self, "tokens", tuple(sorted(checked)))
        boolean("global rows", self.rows)

    @property
    def names_more_than_pairs(self) -> bool:
        """Whether the pattern holds more for a kernel than which pairs are visible."""
        return self.rows

    def __repr__(self) -> str:
        tokens: object = self.tokens
        if len(self.tokens) > 4 and self.tokens[-1] - self.tokens[0] == len(self.tokens) - 1:
            # A block of global tokens would fill the screen.
            tokens = range(self.tokens[0], self.tokens[-1] + 1)
        return f"Global({tokens!r})" if self.rows else f"Global({tokens!r}, rows=False)"

    def positions(self, length: int) -> tuple[int, ...]:
        """Return the tokens that a sequence of `length` keys has, counted from the start."""
        absolute = {token + length if token < 0 else token for token in self.tokens}
        return tuple(sorted(token for token in absolute if 0 <= token < length))


@dataclass(frozen=True, repr=False)
class BatchGlobal(Pattern):
    """As `Global`, with the tokens of each example given at call time by `global_mask`.

    Args:
        rows: Whether the tokens see every key too.
    """

    rows: bool = True

    def __post_init__(self) -> None:
        """Refuse what is not a bool."""
        boolean("batch global rows", self.rows)

    @property
    def names_more_than_pairs(self) -> bool:
        """Whether the pattern holds more for a kernel than which pairs are visible."""
        return True


@dataclass(frozen=True, repr=False)
class Strided(Pattern):
    """Keys a multiple of `stride` away: `(i - j) % stride == 0`.

    The strided head of the Sparse Transformer (Child et al. 2019, section 4.2).
    """

    stride: int

    def __post_init__(self) -> None:
        """Refuse a stride below 1."""
        _set(self, "stride", integer("stride", self.stride, 1, LARGEST))


@dataclass(frozen=True, repr=False)
class LocalBlock(Pattern):
    """Keys of the query's own block of `size` tokens: `i // size == j // size`."""

    size: int

    def __post_init__(self) -> None:
        """Refuse a size below 1."""
        _set(self, "size", integer("local block size", self.size, 1, LARGEST))


@dataclass(frozen=True, repr=False)
class Summary(Pattern):
    """The last `columns` keys of every block: `j % size >= size - columns`.

    The fixed head of the Sparse Transformer (Child et al. 2019, section 4.2).
    """

    size: int
    columns: int

    def __post_init__(self) -> None:
        """Refuse sizes below 1 and more columns than a block has."""
        _set(self, "size", integer("summary size", self.size, 1, LARGEST))
        _set(self, "columns", integer("summary columns", self.columns, 1, LARGEST))
        if self.columns > self.size:
            raise ValueError(f"summary columns must be <= size ({self.size}), got {self.columns}")


@dataclass(frozen=True, repr=False)
class RandomBlocks(Pattern):
    """Each row of blocks sees `per_row` distinct key blocks, drawn uniformly.

    The draw is a pure function of (seed, layer, head, block row) and the number of key blocks, so
    it is equal in training and evaluation. With fewer key blocks than `per_row`, all are seen.

    Args:
        block: Tokens of a block.
        per_row: Key blocks that each block of queries sees.
        seed: Seed of the draw, a signed 64-bit integer.
    """

    block: int
    per_row: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse blocks below 1 token, negative counts and seeds of more than 64 bits."""
        _set(self, "block", integer("random blocks block", self.block, 1, LARGEST))
        _set(self, "per_row", integer("random blocks per_row", self.per_row, 0, LARGEST))
        _set(self, "seed", integer("random blocks seed", self.seed, -(2**63), 2**63 - 1))


@dataclass(frozen=True, repr=False)
class BlockTable(Pattern):
    """An explicit layout of blocks; pairs outside the table are not visible.

    Args:
        table: Rows of query blocks by columns of key blocks, true where visible: nested sequences
            or a tensor of booleans, shared `(rows, columns)` or per head `(heads, rows, columns)`.
            Kept as one string of `0` and `1` a row: `BlockTable(("10", "11"), 64)`.
        block: Tokens of a block.
    """

    table: Any
    block: int

    def __post_init__(self) -> None:
        """Normalise the table to strings and refuse ragged ones."""
        _set(self, "block", integer("block table block", self.block, 1, LARGEST))
        _set(self, "table", block_rows("block table", self.table))

    @property
    def per_head(self) -> bool:
        """Whether the table has one layout per head."""
        return bool(self.table) and not isinstance(self.table[0], str)


@dataclass(frozen=True, repr=False)
class SameDocument(Pattern):
    """Keys of the query's own document in a packed sequence: equal `segment_ids` at call time."""

    @property
    def names_more_than_pairs(self) -> bool:
        """Whether the pattern holds more for a kernel than which pairs are visible."""
        return True


def _parameters(function: Callable[..., Any]) -> inspect.Signature | None:
    """Return what a function takes, None where Python does not know."""
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        return None


@dataclass(frozen=True, repr=False)
class Rule(Pattern):
    """The user's own rule.

    Args:
        fn: `fn(q, k, head) -> bool tensor`, with `q` and `k` int64 tensors of positions that
            broadcast against each other and `head` an int; what it returns broadcasts to both. Must
            be a pure function.
        name: Name in pictures and errors; the function's name by default.

    Raises:
        TypeError: `fn` cannot be called with three arguments, or `name` is no string.
    """

    fn: Callable[..., Any]
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be called with three arguments, and name the rule."""
        if not callable(self.fn):
            raise TypeError(f"rule fn must be callable as fn(q, k, head), got {shown(self.fn)}")
        taken = _parameters(self.fn)
        if taken is not None:
            try:
                taken.bind(0, 0, 0)
            except TypeError:
                raise TypeError(
                    f"rule fn must be callable as fn(q, k, head), got {shown(self.fn)}, which "
                    f"takes {taken}"
                ) from None
        if not isinstance(self.name, str):
            raise TypeError(f"rule name must be a string, got {shown(self.name)}")
        if not self.name:
            _set(self, "name", getattr(self.fn, "__name__", "rule"))

    def __repr__(self) -> str:
        return f"Rule({getattr(self.fn, '__qualname__', repr(self.fn))}, name={self.name!r})"
