"""A masked language model: the encoder, and a head that scores the words of masked tokens."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_modules.nn.activations import ACTIVATIONS
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig

__all__ = ["MaskedLM", "MaskedLMHead"]


class MaskedLMHead(nn.Module):
    """A dense layer, a norm, and the word embeddings with a bias: RoBERTa's and BERT's.

    The embeddings are those of the encoder's input, given at each call.

    Args:
        config: That of the encoder.
        activation: Between layer and norm. RoBERTa and Longformer always have gelu, BERT has that
            of its feed-forward.
    """

    def __init__(self, config: EncoderConfig, activation: str = "gelu") -> None:
        super().__init__()
        self.activation, self.init_std = activation, config.init_std
        self.dense = nn.Linear(config.width, config.width)
        self.layer_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.empty(config.vocabulary_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights as BERT does."""
        self.layer_norm.reset_parameters()
        nn.init.normal_(self.dense.weight, std=self.init_std)
        nn.init.zeros_(self.dense.bias)
        nn.init.zeros_(self.bias)

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Score each word.

        Args:
            hidden: `(..., width)`.
            table: The word embeddings `(vocabulary_size, width)`.

        Returns:
            Logits `(..., vocabulary_size)`.
        """
        x = self.layer_norm(ACTIVATIONS[self.activation](self.dense(hidden)))
        return F.linear(x, table, self.bias)


class MaskedLM(nn.Module):
    """Encoder and head.

    Args:
        encoder: The encoder.
        head: The head; a fresh one if not given.
    """

    def __init__(self, encoder: Encoder, head: MaskedLMHead | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = MaskedLMHead(encoder.config) if head is None else head

    def reset_parameters(self, modules: Iterable[nn.Module] | None = None) -> None:
        """Draw fresh weights as BERT does.

        Args:
            modules: Those whose own weights are drawn, without their children; all by default. The
                head is drawn as a whole, if it or a part of it is among them.
        """
        wanted = set(self.modules() if modules is None else modules)
        self.encoder.reset_parameters(wanted)
        if not wanted.isdisjoint(self.head.modules()):
            self.head.reset_parameters()

    def forward(
        self,
        input_ids: Tensor,
        key_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        *,
        scored: Tensor | None = None,
    ) -> Tensor:
        """Return logits `(batch, length, vocabulary_size)`; see `Encoder.forward`.

        Args:
            input_ids: int `(batch, length)`.
            key_mask: bool `(batch, length)`, True for a real token.
            global_mask: bool `(batch, length)`, True for a global token.
            segment_ids: int `(batch, length)`, within which tokens see each other.
            scored: bool `(batch, length)`: score these tokens alone, `(tokens, vocabulary_size)`.
                Few tokens are masked, and the vocabulary is large.
        """
        hidden = self.encoder(input_ids, key_mask, global_mask, segment_ids).hidden
        if scored is not None:
            hidden = hidden[scored]
        logits: Tensor = self.head(hidden, self.encoder.embeddings.word_embeddings.weight)
        return logits
