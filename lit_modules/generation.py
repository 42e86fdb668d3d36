"""Sampling from a language model, token by token, in memory that does not grow."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lit_modules.nn.decoder.decoder import Decoder

__all__ = ["check_sampling", "generate", "sample"]


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose one token for each row.

    Args:
        logits: `(batch, vocabulary_size)`.
        temperature: Divides the logits; below 1 favours likely tokens.
        top_k: Choose among this many most likely tokens.
        top_p: Choose among the fewest tokens whose probabilities add up to this.
        greedy: Choose the most likely token.
        generator: Source of the randomness.

    Returns:
        int64 `(batch,)`.
    """
    if greedy:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        ordered, tokens = logits.sort(descending=True)
        shares = ordered.softmax(-1)
        # The sum before a token is compared, so that the token that reaches top_p is kept.
        beyond = shares.cumsum(-1) - shares >= top_p
        logits = logits.masked_fill(beyond.gather(-1, tokens.argsort(-1)), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def check_sampling(
    max_new: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    """Refuse numbers that tokens cannot be chosen by; see `generate` for their meaning.

    Raises:
        ValueError: One is out of range; the message names it.
    """
    if max_new < 0:
        raise ValueError(f"max_new must be >= 0, got {max_new}")
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature must be > 0 and finite (greedy=True for the limit 0), got {temperature}"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be >= 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in 0..1 (0 excluded), got {top_p}")


def generate(
    net: Decoder,
    prompt_ids: Tensor,
    max_new: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    seed: int | None = None,
    memory: int | None = None,
) -> Iterator[Tensor]:
    """Continue a prompt, yielding each token as it is chosen.

    Each layer keeps only the keys that later tokens can still see, so memory stays constant for a
    pattern with a limited reach.

    Args:
        net: The decoder.
        prompt_ids: int64 `(batch, length)`, at least one token.
        max_new: Number of tokens to choose.
        temperature: Divides the logits; below 1 favours likely tokens.
        top_k: Choose among this many most likely tokens.
        top_p: Choose among the fewest tokens whose probabilities add up to this.
        greedy: Choose the most likely token; needs no other setting.
        seed: Seed of the choices; None draws from torch's global generator.
        memory: Tokens before a token that it sees at most; None for all that the pattern shows.

    Returns:
        An iterator of `max_new` tensors, int64 `(batch,)`.

    Raises:
        ValueError: A number is out of range, or the prompt is empty or holds ids outside the
            vocabulary.
    """
    if prompt_ids.ndim != 2 or not prompt_ids.numel():
        raise ValueError(
            "prompt_ids must have shape (batch, length) with at least one token, "
            f"got {tuple(prompt_ids.shape)}"
        )
    low, high = int(prompt_ids.min()), int(prompt_ids.max())
    if low < 0 or high >= net.embedding.num_embeddings:
        raise ValueError(
            f"prompt_ids must be in 0..{net.embedding.num_embeddings - 1}, got {low}..{high}"
        )
    check_sampling(max_new, temperature, top_k, top_p)
    generator = None
    if seed is not None:
        generator = torch.Generator(prompt_ids.device).manual_seed(seed)

    def choose(logits: Tensor) -> Tensor:
        return sample(
            logits,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            greedy=greedy,
            generator=generator,
        )

    def tokens() -> Iterator[Tensor]:
        caches = net.make_caches(memory)
        ids = prompt_ids
        for _ in range(max_new):
            token = choose(_next_logits(net, ids, caches))
            yield token
            ids = token[:, None]

    return tokens()


@torch.no_grad()
def _next_logits(net: Decoder, ids: Tensor, caches: list) -> Tensor:
    training = net.training
    net.eval()
    try:
        # One token at a time through a compiled network would compile for each length of the cache.
        with torch.compiler.set_stance("force_eager"):
            return net(ids, caches=caches, last_only=True).logits[:, 0]
    finally:
        net.train(training)
