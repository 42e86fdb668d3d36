"""An encoder's weights in another form: more positions, more tokens, global projections or none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from lit_modules.pretrained.loading import assemble

__all__ = ["adapt"]

_WORDS = "embeddings.word_embeddings.weight"
_POSITIONS = "embeddings.position_embeddings.weight"
_ATTENTION = ".attention.self."


def adapt(encoder: Encoder, config: EncoderConfig, *, kernel: str = "auto") -> Encoder:
    """Return an encoder of another configuration with the weights of this one.

    Positions are repeated until the table is full, the last copy cut, the rows before them kept.
    Global projections that are new are independent copies of query, key and value; those that are
    not wanted are left out. Words that are new have fresh rows.

    Args:
        encoder: Where the weights come from; not changed.
        config: What to make. It may differ from that of `encoder` in positions, vocabulary,
            pattern, global projections, dropout, and in how positions are numbered.
        kernel: Kernel of `sparse_patterns.attention`.

    Raises:
        ValueError: A table would have to be cut.
    """
    old = encoder.config
    for name in ("vocabulary_size", "max_length"):
        if getattr(config, name) < getattr(old, name):
            raise ValueError(
                f"{name} must be at least that of the encoder, {getattr(old, name)}, "
                f"got {getattr(config, name)}"
            )
    state = dict(encoder.state_dict())
    state[_POSITIONS] = repeated(
        state[_POSITIONS], old.special_positions, config.special_positions, config.max_length
    )
    more = config.vocabulary_size - old.vocabulary_size
    if more:
        fresh = torch.empty(more, old.width).normal_(std=config.init_std)
        state[_WORDS] = torch.cat((state[_WORDS], fresh.to(state[_WORDS])))
    if config.global_projections and not old.global_projections:
        for key in [key for key in state if _ATTENTION in key]:
            head, _, parameter = key.rpartition(".")
            state[f"{head}_global.{parameter}"] = state[key]
    elif old.global_projections and not config.global_projections:
        state = {key: value for key, value in state.items() if "_global." not in key}
    made = assemble(
        config, state, "the encoder", checkpointing=encoder.checkpointing, kernel=kernel
    )
    first: nn.Parameter = next(encoder.parameters())
    made.to(first.device, first.dtype)
    return made.train(encoder.training)


def repeated(table: Tensor, special: int, new_special: int, length: int) -> Tensor:
    """Return `new_special + length` rows: the special ones, then the others repeated."""
    rows = table.new_zeros(new_special + length, table.shape[1])
    rows[:special] = table[:special]
    positions = table[special:]
    for start in range(0, length, len(positions)):
        count = min(len(positions), length - start)
        rows[new_special + start :][:count] = positions[:count]
    return rows
