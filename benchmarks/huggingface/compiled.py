"""A compiled training step of a Hugging Face encoder with a pattern against the same uncompiled."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import sparse_patterns as sp
from benchmarks.comparisons import timed, times_faster
from benchmarks.suites import Case, Options
from benchmarks.table import Row
from sparse_patterns.huggingface import set_pattern

LAYERS = 12
SIZES = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
PATTERN = sp.Window(256, 256) | sp.Global((0,))
DIRECTION = "training step"


def steps(length: int, **sizes: Any) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """A training step of one text, compiled as one graph and uncompiled, of equal models.

    Args:
        length: Tokens of the text.
        sizes: Fields of the configuration in place of `SIZES`.
    """
    import transformers

    fields = {"num_hidden_layers": LAYERS, **SIZES, **sizes}
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(
        vocab_size=1000, max_position_embeddings=length, **fields, **dropouts
    )
    draw = torch.Generator().manual_seed(length)
    ids = torch.randint(1000, (1, length), generator=draw)

    def step_of(compiled: bool) -> Callable[[], Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: Any = set_pattern(transformers.BertForMaskedLM(config), PATTERN).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        run = torch.compile(model, fullgraph=True) if compiled else model

        def step() -> Tensor:
            loss = run(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    return step_of(True), step_of(False)


def against_uncompiled(options: Options) -> Iterator[Row]:
    """How many times faster the compiled step is."""
    for length in options.lengths:
        calls = steps(length)
        torch.testing.assert_close(calls[0](), calls[1](), rtol=1e-4, atol=1e-4)
        yield timed(
            "compiled-training",
            "times faster",
            length,
            DIRECTION,
            calls,
            times_faster,
            None,
            options,
        )


CASES = [
    Case(
        "compiled-training",
        f"training step of a compiled encoder of {LAYERS} layers, times faster than uncompiled",
        against_uncompiled,
    )
]
