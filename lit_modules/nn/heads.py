"""Small heads on the encoder's tokens; names and numbers are Hugging Face's where it has them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ClassificationHead", "TwoLayers", "draw"]


class ClassificationHead(nn.Module):
    """RoBERTa's: dropout, dense, tanh, dropout, out_proj, on one token.

    Args:
        width: Features of a token.
        classes: Number of classes.
        dropout: Share of features that is dropped in training.
    """

    def __init__(self, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(width, classes)

    def forward(self, token: Tensor) -> Tensor:
        """Return `(..., classes)` for `(..., width)`."""
        x = torch.tanh(self.dense(self.dropout(token)))
        out: Tensor = self.out_proj(self.dropout(x))
        return out


class TwoLayers(nn.Sequential):
    """Dense, GELU, dropout, dense.

    Args:
        inputs: Features that come in.
        inner: Features in between.
        outputs: Features that go out.
        dropout: Share of the inner features that is dropped in training.
    """

    def __init__(self, inputs: int, inner: int, outputs: int, dropout: float = 0.1) -> None:
        super().__init__(
            nn.Linear(inputs, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, outputs)
        )


def draw(module: nn.Module, std: float) -> None:
    """Draw fresh weights as BERT does: normal, with offsets of zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
