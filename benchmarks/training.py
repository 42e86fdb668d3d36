"""One training step of the demo's language model, and of the same model with dense attention.

The architecture and the optimizer are those of the shipped `lm/stdlib`, its windows as wide as in
its last stage; the batch is one sequence of random bytes.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

import sparse_patterns as sp
from benchmarks.baselines import Unavailable
from lit_modules.commands.configs.shipped import shipped_path
from lit_modules.language_model import LanguageModel
from lit_modules.nn.decoder.attention import KeysValues, SelfAttention
from lit_modules.nn.decoder.block import Block
from lit_modules.nn.decoder.embeddings import Rotary, rotate

CONFIG = shipped_path("lm/stdlib")
VOCABULARY_SIZE = 256  # bytes
DIRECTION = "training step"

# The dense kernel holds several float32 matrices of all pairs of all heads at once: at four times
# this length, of 4 GiB each.
DENSE_KERNEL_LONGEST = 4096


class TorchAttention(nn.Module):
    """Takes the place of a `SelfAttention`, with torch's own dense causal attention in its core.

    Args:
        replaced: Whose projections are used.
    """

    def __init__(self, replaced: SelfAttention) -> None:
        super().__init__()
        self.heads, self.head_dim = replaced.heads, replaced.head_dim
        self.project_in, self.project_out = replaced.project_in, replaced.project_out

    def forward(self, x: Tensor, rotary: Rotary | None, **given: Any) -> tuple[Tensor, KeysValues]:
        """Attend to all tokens up to each, `(batch, length, width)`; `given` must hold nothing."""
        assert not any(value is not None for value in given.values())
        q, k, v = self.project_in(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        kept = (k, v)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.project_out(out.transpose(1, 2).flatten(2)), kept


class TrainingStep:
    """A model with its optimizer and a batch of one sequence; a call trains one step.

    Args:
        model: Trained in place.
        length: Tokens of the sequence.
    """

    def __init__(self, model: LanguageModel, length: int) -> None:
        self.decoder = model.decoder.train()
        self.optimizer = model.configure_optimizers()["optimizer"]
        draw = torch.Generator().manual_seed(length)
        ids = torch.randint(VOCABULARY_SIZE, (1, length + 1), generator=draw)
        self.input_ids, self.labels = ids[:, :-1], ids[:, 1:]

    def __call__(self) -> Tensor:
        """Forward, backward and a step of the optimizer; returns the loss, in nats per token."""
        logits = self.decoder(self.input_ids).logits
        loss = F.cross_entropy(logits.flatten(0, 1), self.labels.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def model(**changes: Any) -> LanguageModel:
    """The demo's model in its last stage, with the same weights at every call.

    Args:
        changes: Arguments of `LanguageModel` in place of the configuration's.
    """
    config: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = LanguageModel(VOCABULARY_SIZE, **{**config["model"], **changes})
        made.set_window_scale(config["stages"]["table"][-1].get("window_scale", 1.0))
    return made


def ours(length: int) -> TrainingStep:
    """The demo's model as it is."""
    return TrainingStep(model(), length)


def torch_dense(length: int) -> TrainingStep:
    """The same with `scaled_dot_product_attention(is_causal=True)` in every layer."""
    made = model()
    for block in made.decoder.blocks:
        assert isinstance(block, Block)
        assert isinstance(block.attention, SelfAttention)
        block.register_module("attention", TorchAttention(block.attention))
    return TrainingStep(made, length)


def dense_kernel(length: int) -> TrainingStep:
    """The same with the causal pattern `Full() & Causal()`, run by our dense kernel.

    Raises:
        Unavailable: when the length would take more memory than most machines have.
    """
    if length > DENSE_KERNEL_LONGEST:
        raise Unavailable(
            f"the dense kernel holds all pairs at once; measured up to {DENSE_KERNEL_LONGEST:,}"
        )
    return TrainingStep(model(pattern=sp.Full() & sp.Causal(), kernel="dense"), length)


STEPS: dict[str, Callable[[int], TrainingStep]] = {
    "ours": ours,
    "torch-dense": torch_dense,
    "dense-kernel": dense_kernel,
}


def call_of(contender: str, length: int, direction: str) -> Callable[[], object]:
    """The call whose memory `benchmarks.memory` measures: a step of a model of `STEPS`."""
    assert direction == DIRECTION
    return STEPS[contender](length)
