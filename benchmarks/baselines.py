"""What else one could use for the same window: Hugging Face's core, dense attention, FlexAttention.

Each takes the same `q`, `k`, `v` as our side. Where the arithmetic is the same, `check_equal` makes
sure of it before anything is timed.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders import HEAD_DIM, HEADS, SIDE, WINDOW, Contender, ours, random_inputs


class Unavailable(RuntimeError):
    """This machine cannot run a baseline; the message says why."""


class _Given(nn.Module):
    """Stands in for a projection: returns a tensor that is already projected."""

    def __init__(self) -> None:
        super().__init__()
        self.tensor: Tensor | None = None

    def forward(self, _: Tensor) -> Tensor:
        assert self.tensor is not None
        return self.tensor.transpose(0, 1)


class _GivenCopy(_Given):
    """The same as a copy, since the core scales its queries in place."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden).clone()


def huggingface(length: int) -> Contender:
    """Longformer's attention core of transformers, its projections replaced by the identity.

    In evaluation mode. The core wants lengths that are multiples of the attention window, to which
    its model pads; the padding is masked.

    The inputs are `(batch, length, heads * head_dim)`, the layout that its projections would give.
    """
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    window = 2 * SIDE
    config = LongformerConfig(
        hidden_size=HEADS * HEAD_DIM,
        num_attention_heads=HEADS,
        num_hidden_layers=1,
        attention_window=[window],
    )
    core = LongformerSelfAttention(config, layer_id=0).eval()
    core.query, core.key, core.value = _GivenCopy(), _Given(), _Given()
    padding = -length % window
    q, k, v = (F.pad(_merge_heads(x), (0, 0, 0, padding)) for x in random_inputs(length))
    padded = torch.arange(length + padding).expand(q.shape[0], -1) >= length
    mask = padded * torch.finfo(q.dtype).min

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        core.query.tensor, core.key.tensor, core.value.tensor = q, k, v
        (out,) = core(
            q,
            attention_mask=mask,
            is_index_masked=padded,
            is_index_global_attn=torch.zeros_like(padded),
            is_global_attn=False,
        )
        return out[:, :length]

    return Contender(call, (q, k, v))


def dense(length: int, *, masked: bool) -> Contender:
    """Torch's own attention over all pairs: unmasked, or with the window as a mask."""
    mask = None
    if masked:
        position = torch.arange(length)
        mask = (position[:, None] - position[None, :]).abs() <= SIDE

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return Contender(call, random_inputs(length))


def flex(length: int) -> Contender:
    """Compiled FlexAttention on the window, forward only: on a CPU it has no backward.

    Raises:
        Unavailable: when it does not compile here, most often for want of a C++ compiler.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query - key).abs() <= SIDE

    compiled = torch.compile(flex_attention)
    try:
        blocks = create_block_mask(near, None, None, length, length, device="cpu")
        contender = Contender(
            lambda q, k, v: compiled(q, k, v, block_mask=blocks), random_inputs(length)
        )
        contender.forward()
    except Exception as error:  # a failed compilation raises whatever the compiler's layers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Unavailable(f"FlexAttention did not compile: {reason}") from error
    return contender


def check_equal(ours: Tensor, other: Tensor, *, tolerance: float = 1e-4) -> None:
    """Makes sure that two contenders compute the same; else comparing their times means nothing.

    Args:
        ours: `(batch, heads, length, head_dim)`, or of the shape of `other`.
        other: The same, or `(batch, length, heads * head_dim)`.
        tolerance: The largest difference allowed in any element.

    Raises:
        ValueError: when they differ by more.
    """
    if other.dim() == 3 and ours.dim() == 4:
        ours = _merge_heads(ours)
    difference = (ours - other).abs().max().item()
    if not difference <= tolerance:
        raise ValueError(f"the outputs differ by {difference:.2g}, allowed is {tolerance:.2g}")


def _merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


BASELINES: dict[str, Callable[[int], Contender]] = {
    "huggingface": huggingface,
    "dense": lambda length: dense(length, masked=False),
    "dense-masked": lambda length: dense(length, masked=True),
    "flex": flex,
}


def call_of(contender: str, length: int, direction: str) -> Callable[[], object]:
    """The call whose memory `benchmarks.memory` measures: "ours" on the window, or a baseline."""
    made = ours(WINDOW, length) if contender == "ours" else BASELINES[contender](length)
    return made.run(direction)
