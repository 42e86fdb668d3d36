"""The function by which a model describes its mask, as an expression of a query and a key.

The function is called with symbols in the place of numbers, which write down what is done to them.
That needs nothing but the function itself, so that `torch.compile` can trace it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor
from torch.overrides import TorchFunctionMode

_NAMES = {"query", "key", "example", "head", "everything", "nothing"}


class Symbol:
    """A number or a truth that is not known yet.

    Attributes:
        kind: Its name, or the operation that makes it.
        parts: What the operation is done to.
    """

    def __init__(self, kind: str, *parts: Any) -> None:
        self.kind, self.parts = kind, parts

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return Symbol("==", self, other)

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return Symbol("!=", self, other)

    def __lt__(self, other: object) -> Symbol:
        return Symbol("<", self, other)

    def __le__(self, other: object) -> Symbol:
        return Symbol("<=", self, other)

    def __gt__(self, other: object) -> Symbol:
        return Symbol(">", self, other)

    def __ge__(self, other: object) -> Symbol:
        return Symbol(">=", self, other)

    def __add__(self, other: object) -> Symbol:
        return Symbol("+", self, other)

    def __sub__(self, other: object) -> Symbol:
        return Symbol("-", self, other)

    def __floordiv__(self, other: object) -> Symbol:
        return Symbol("//", self, other)

    def __and__(self, other: object) -> Symbol:
        return Symbol("&", self, other)

    def __or__(self, other: object) -> Symbol:
        return Symbol("|", self, other)

    def __abs__(self) -> Symbol:
        return Symbol("abs", self)

    __hash__ = object.__hash__

    def new_ones(self, *_: Any, **__: Any) -> Symbol:
        """Return what is true of every pair, as the mask of no masks is made."""
        return Symbol("everything")

    def new_zeros(self, *_: Any, **__: Any) -> Symbol:
        """Return what is true of no pair."""
        return Symbol("nothing")

    @property
    def device(self) -> None:
        """No device."""

    def to(self, *_: Any) -> Symbol:
        """Return the same; it has neither type nor device."""
        return self


class _Indexing(TorchFunctionMode):
    """Writes down that a tensor is indexed by symbols."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if len(args) == 2 and isinstance(args[1], Symbol):
            return Symbol("[]", args[0], args[1])
        if len(args) == 2 and isinstance(args[1], tuple) and isinstance(args[1][0], Symbol):
            return Symbol("[]", args[0], *args[1])
        return function(*args, **(kwargs or {}))


def expression_of(function: Callable[..., Any]) -> Symbol:
    """Return what a function of (example, head, query, key) computes.

    Raises:
        TypeError: It does what symbols cannot do.
    """
    with _Indexing():
        found = function(Symbol("example"), Symbol("head"), Symbol("query"), Symbol("key"))
    if not isinstance(found, Symbol):
        raise TypeError("it does not depend on the pair")
    return found


def conjuncts(expression: Symbol) -> list[Symbol]:
    """Return the parts that must all hold."""
    if expression.kind == "&":
        return [part for one in expression.parts for part in conjuncts(one)]
    return [] if expression.kind == "everything" else [expression]


def place(x: Any, name: str) -> tuple[bool, Tensor | None]:
    """Return whether an expression is where a query or a key lies, and by which positions.

    Args:
        x: An expression.
        name: `query` or `key`.

    Returns:
        True and None for the place in the row; True and the tensor for a position read from one.
    """
    if isinstance(x, Symbol):
        if x.kind == name:
            return True, None
        if _is_read_at(x, name):
            return True, cast(Tensor, x.parts[0])
    return False, None


def _is_read_at(x: Symbol, name: str) -> bool:
    return (
        x.kind == "[]"
        and len(x.parts) == 3
        and x.parts[1].kind == "example"
        and x.parts[2].kind == name
    )


def same_document(x: Symbol) -> Tensor | None:
    """Return the tensor whose values must be equal for query and key; None if it is another."""
    if x.kind == "==":
        a, b = x.parts
        if isinstance(a, Symbol) and isinstance(b, Symbol):
            for one, other in ((a, b), (b, a)):
                if _is_read_at(one, "query") and _is_read_at(other, "key"):
                    return one.parts[0] if one.parts[0] is other.parts[0] else None
    return None


def difference(x: Any, name: str) -> tuple[Tensor | None, Any] | None:
    """Return the positions by which a place is counted, and what is taken off it."""
    if not isinstance(x, Symbol) or x.kind != "-":
        return None
    found, positions = place(x.parts[0], name)
    return (positions, x.parts[1]) if found else None


def chunk(x: Any, name: str) -> tuple[int, Tensor, Tensor | None] | None:
    """Return size, start in each example and positions of the chunk of a query or a key."""
    if not isinstance(x, Symbol) or x.kind != "//" or not isinstance(x.parts[1], int):
        return None
    less = difference(x.parts[0], name)
    if less is None:
        return None
    positions, first = less
    if not isinstance(first, Symbol) or first.kind != "[]" or len(first.parts) != 2:
        return None
    return x.parts[1], first.parts[0], positions


def written(x: Any) -> str:
    """Return an expression as text."""
    if not isinstance(x, Symbol):
        return "tensor" if isinstance(x, Tensor) else repr(x)
    parts = [written(part) for part in x.parts]
    if x.kind in _NAMES:
        return x.kind
    if x.kind == "[]":
        return f"{parts[0]}[{', '.join(parts[1:])}]"
    if x.kind == "abs":
        return f"abs({parts[0]})"
    simple = [text if " " not in text else f"({text})" for text in parts]
    return f" {x.kind} ".join(simple)
