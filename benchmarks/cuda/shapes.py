"""What the CUDA suite measures: patterns, shapes, and the ideal that times are held against."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import sparse_patterns as sp
from benchmarks.table import Goal
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.oracle import ExampleContext, visible

BATCH, HEADS = 4, 16
HEAD_DIMS = (64, 128)
DOCUMENT = 2048  # tokens of each document of a packed sequence
GLOBAL_TOKENS = 16
BLOCK, RANDOM_PER_ROW = 64, 3

# The goals are set for this shape, on an H100; at others the figure is printed without one.
GOAL_PATTERN, GOAL_LENGTH, GOAL_HEAD_DIM = "window-1024", 32768, 128
SHARE_GOALS = {"forward": Goal(">=", 0.7), "forward+backward": Goal(">=", 0.6)}
FLEX_GOAL = Goal(">=", 1.0)
DILATION_GOAL = Goal("<=", 1.1)

PATTERNS: dict[str, sp.Pattern] = {
    "window-256": sp.Window(256, 256),
    "window-1024": sp.Window(1024, 1024),
    "causal-1024": sp.Window(1024, 0),
    "dilation-1024": sp.Window(1024, 1024, (*[1] * (HEADS - 2), 2, 2)),
    "globals-1024": sp.Window(1024, 1024) | sp.Global(tuple(range(GLOBAL_TOKENS))),
    "bigbird": sp.get("bigbird", block=BLOCK, per_row=RANDOM_PER_ROW),
    "documents-1024": sp.Window(1024, 1024) & sp.SameDocument(),
}

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class CudaShape:
    """One pattern at one shape: `BATCH` examples of `HEADS` heads.

    Attributes:
        name: Name of the pattern.
        length: Tokens.
        head_dim: Size of a head.
    """

    name: str
    length: int
    head_dim: int

    @property
    def pattern(self) -> sp.Pattern:
        """The pattern."""
        return PATTERNS[self.name]

    @property
    def documents(self) -> bool:
        """Whether sequences are packed of documents."""
        return self.name.startswith("documents")

    @property
    def density(self) -> float:
        """Share of all pairs that is visible."""
        if not self.documents:
            return self._plan(self.pattern, self.length).density
        # A plan does not know the documents: each is a sequence of its own.
        whole, rest = divmod(self.length, DOCUMENT)
        window = sp.Window(1024, 1024)
        seen = sum(
            count * self._plan(window, size).visible
            for size, count in ((DOCUMENT, whole), (rest, 1))
            if size and count
        )
        return seen / (HEADS * self.length**2)

    def segment_ids(self, device: str) -> Tensor | None:
        """Return the documents of the tokens, int64 `(BATCH, length)`, None without documents."""
        if not self.documents:
            return None
        return (torch.arange(self.length, device=device) // DOCUMENT).expand(BATCH, -1)

    def goal(self, direction: str) -> Goal | None:
        """Return the goal for the share of the ideal, None at a shape without one."""
        at = (self.name, self.length, self.head_dim)
        return SHARE_GOALS[direction] if at == (GOAL_PATTERN, GOAL_LENGTH, GOAL_HEAD_DIM) else None

    def mask_mod(self, device: str) -> MaskMod:
        """Return the mask as a user of FlexAttention writes it, of tensors `(b, h, q, k)`."""
        if self.name == "bigbird":
            return _bigbird_mod(self.pattern, self.length, device)
        side = int(self.name.rpartition("-")[2])
        if self.name.startswith("dilation"):
            steps = torch.tensor([*[1] * (HEADS - 2), 2, 2], device=device)

            def dilated(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
                step = steps[h]
                return ((k - q).abs() <= side * step) & ((k - q) % step == 0)

            return dilated
        if self.name.startswith("globals"):
            return lambda b, h, q, k: (
                ((k - q).abs() <= side) | (k < GLOBAL_TOKENS) | (q < GLOBAL_TOKENS)
            )
        if self.documents:
            return lambda b, h, q, k: ((k - q).abs() <= side) & (q // DOCUMENT == k // DOCUMENT)
        if self.name.startswith("causal"):
            return lambda b, h, q, k: (k <= q) & (q - k <= side)
        return lambda b, h, q, k: (k - q).abs() <= side

    def _plan(self, pattern: sp.Pattern, length: int) -> sp.Plan:
        return sp.plan(pattern, length, heads=HEADS, head_dim=self.head_dim)


def _bigbird_mod(pattern: sp.Pattern, length: int, device: str) -> MaskMod:
    """Return the window and the leading block beside a captured table of the random blocks."""
    blocks = -(-length // BLOCK)
    starts = torch.arange(blocks) * BLOCK
    random = sp.RandomBlocks(BLOCK, RANDOM_PER_ROW)
    table = torch.stack(
        [
            visible(one, starts[:, None], starts[None, :], ExampleContext(length))
            for one in bind(random, heads=HEADS)
        ]
    ).to(device)

    def mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        leading = (q < BLOCK) | (k < BLOCK)
        return ((k - q).abs() <= BLOCK) | leading | table[h, q // BLOCK, k // BLOCK]

    return mod


def share_of_ideal(dense: float, density: float, measured: float) -> float:
    """Return the ideal time over the measured one: 1 would compute visible pairs as fast as dense.

    Args:
        dense: Seconds of dense flash attention at the same shape.
        density: Share of the pairs that is visible.
        measured: Seconds measured.

    Raises:
        ValueError: A time is not positive, or the density is not in 0..1.
    """
    if dense <= 0 or measured <= 0:
        raise ValueError(f"times must be > 0, got dense {dense} and measured {measured}")
    if not 0 <= density <= 1:
        raise ValueError(f"density must be in 0..1, got {density}")
    return dense * density / measured
