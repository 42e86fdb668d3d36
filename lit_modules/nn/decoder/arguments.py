"""Checks of the arguments of a decoder: one clear error, with what is allowed."""

from __future__ import annotations

from lit_modules.nn.activations import ACTIVATIONS

__all__ = ["check_choices", "check_positions", "check_shares", "check_sizes"]

POSITIONS = ("rotary", "transformer-xl", "alibi", "t5", "learned")
NORMS = ("pre", "post")


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1, and a `width` that cannot be divided among the `heads`.

    Raises:
        ValueError: A size is not allowed.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an int >= 1, got {size!r}")
    if sizes["width"] % sizes["heads"]:
        raise ValueError(
            f"width must be a multiple of heads ({sizes['heads']}), got {sizes['width']}"
        )


def check_positions(positions: str, max_length: int | None, width: int, heads: int) -> None:
    """Refuse unknown positions, and sizes that they cannot have.

    Raises:
        ValueError: An argument is not allowed.
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
    if positions == "rotary" and width // heads % 2:
        raise ValueError(
            f"positions='rotary' needs an even head size (width / heads), got {width // heads}"
        )
    if positions == "transformer-xl" and width % 2:
        raise ValueError(f"positions='transformer-xl' needs an even width, got {width}")
    if positions == "learned" and (max_length is None or max_length < 1):
        raise ValueError(f"positions='learned' needs max_length >= 1, got {max_length}")
    if positions != "learned" and max_length is not None:
        raise ValueError(
            f"max_length is for positions='learned'; {positions} has no limit, got {max_length}"
        )


def check_choices(norm: str, activation: str) -> None:
    """Refuse unknown names.

    Raises:
        ValueError: A name is unknown.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be 'pre' or 'post', got {norm!r}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")


def check_shares(**shares: float) -> None:
    """Refuse shares outside 0..1.

    Raises:
        ValueError: A share is not allowed.
    """
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be in 0..1 (1 excluded), got {share}")
