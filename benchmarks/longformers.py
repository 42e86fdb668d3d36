"""Longformer's base model, ours and that of `transformers`, with the same weights and one text.

12 layers, 12 heads, width 768, window 512 (256 on each side), the first token global, batch 1,
float32; no dropout, so that both sides compute the same numbers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines import Unavailable
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig

WINDOW, VOCABULARY_SIZE, PAD_ID = 512, 50265, 1
TRAINING = "training step"

# A training step of the model of `transformers` takes about 9 GB at this length, and four times as
# much at four times the length.
LONGEST = 4096


class Pass:
    """One side: a call encodes the text, and in training also goes back and takes a step.

    Args:
        encode: From ids and marks of global tokens to hidden states `(1, length, width)`.
        model: Whose parameters are trained.
        length: Tokens of the text.
        width: Features of a token.
    """

    def __init__(
        self,
        encode: Callable[[Tensor, Tensor], Tensor],
        model: torch.nn.Module,
        length: int,
        width: int,
    ) -> None:
        draw = torch.Generator().manual_seed(length)
        ids = torch.randint(PAD_ID + 1, VOCABULARY_SIZE, (1, length), generator=draw)
        marks = torch.zeros_like(ids, dtype=torch.bool)
        marks[:, 0] = True
        self.model, self.encode, self.inputs = model, encode, (ids, marks)
        # Against a fixed direction: the mean of squares hardly changes behind a LayerNorm.
        self.direction = torch.randn(length, width, generator=draw)

    @torch.no_grad()
    def forward(self) -> Tensor:
        """Hidden states, with nothing kept for a backward."""
        return self.encode(*self.inputs)

    def training_step(self) -> Tensor:
        """Forward, backward and a step of SGD, which keeps nothing; returns the loss."""
        loss = (self.encode(*self.inputs) * self.direction).mean()
        loss.backward()
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-0.1)
                    parameter.grad = None
        return loss.detach()

    def run(self, direction: str) -> Callable[[], Tensor]:
        """The call to time for "forward" or "training step"."""
        return self.forward if direction == "forward" else self.training_step


def huggingface(length: int, **sizes: Any) -> Pass:
    """`LongformerModel` of transformers.

    Args:
        length: Tokens of the text.
        **sizes: Fields of its configuration in place of the base model's.

    Raises:
        Unavailable: when the length would take more memory than most machines have.
    """
    if length > LONGEST:
        raise Unavailable(f"transformers' model would need tens of GB; measured up to {LONGEST:,}")
    model = _theirs(length, **sizes)

    def encode(ids: Tensor, marks: Tensor) -> Tensor:
        return model(ids, global_attention_mask=marks.long()).last_hidden_state

    return Pass(encode, model, length, model.config.hidden_size)


def ours(length: int, **sizes: Any) -> Pass:
    """Our encoder with the weights of `huggingface`.

    Args:
        length: Tokens of the text.
        **sizes: Fields of the configuration of `transformers`.
    """
    theirs = _theirs(length, **sizes)
    config = EncoderConfig.from_huggingface(theirs.config.to_dict()).replace(pooler=False)
    encoder = Encoder(config).train()
    encoder.load_state_dict(theirs.state_dict())
    del theirs

    def encode(ids: Tensor, marks: Tensor) -> Tensor:
        hidden: Tensor = encoder(ids, global_mask=marks).hidden
        return hidden

    return Pass(encode, encoder, length, config.width)


def _theirs(length: int, **sizes: Any) -> Any:
    """The model of `transformers`, with the same weights at every call."""
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.LongformerConfig(
        **{
            "attention_window": WINDOW,
            "vocab_size": VOCABULARY_SIZE,
            "max_position_embeddings": length + PAD_ID + 1,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            **sizes,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LongformerModel(config, add_pooling_layer=False).train()


SIDES: dict[str, Callable[..., Pass]] = {"ours": ours, "huggingface": huggingface}


def call_of(contender: str, length: int, direction: str) -> Callable[[], object]:
    """The call whose memory `benchmarks.memory` measures."""
    return SIDES[contender](length).run(direction)
