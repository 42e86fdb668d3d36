"""The encoder under a task, from settings: pretrained weights or fresh ones, with any pattern."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

import sparse_patterns as sp
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from lit_modules.nn.patterns import resolve
from lit_modules.pretrained.adapting import adapt
from lit_modules.pretrained.loading import load_encoder
from lit_modules.pretrained.reports import BackboneReport
from sparse_patterns.registry import did_you_mean

__all__ = ["SCRATCH", "EncoderSettings", "build_encoder", "reads_global_mask", "train_only"]

# Fields that pretrained weights determine, with the values of a fresh encoder.
_SIZES: dict[str, Any] = {
    "layers": 12,
    "heads": 12,
    "width": 768,
    "feedforward_width": None,
    "token_types": 1,
    "pooler": True,
    "model_type": None,
    "init_std": None,
}
_LENGTH, _WINDOW, _INIT_STD = 512, 512, 0.02


@dataclass(frozen=True)
class EncoderSettings:
    """Which encoder, and what is changed about it. Plain data through `plain()` and `of()`.

    Args:
        path: Folder or file of pretrained weights of BERT, RoBERTa or Longformer; None starts from
            fresh weights, of the sizes below, which a path determines otherwise.
        layers: Number of layers; 12.
        heads: Attention heads of a layer; 12.
        width: Features of a token; 768.
        feedforward_width: Features inside the feed-forward; four times `width`.
        token_types: Rows of the token-type table; 1.
        pooler: Whether there is a layer on the first token; yes.
        model_type: bert, roberta, xlm-roberta, camembert or longformer: how positions are numbered,
            and what it is saved as. longformer with global projections, else roberta.
        init_std: Standard deviation of fresh weights; 0.02 at a width of 768 as in BERT, and larger
            in narrower encoders, in proportion to the square root of 768 / width: with 0.02 the
            scores of a narrow one are so small that attention hardly learns.
        pattern: What attends to what: a registered name or a config; None keeps that of the
            checkpoint (a fresh encoder: full).
        window: Short for the longformer pattern with this two-sided window (even; one number or one
            per layer), in place of `pattern`.
        max_length: Tokens of the longest text that must fit. A shorter pretrained table is
            lengthened by copies of its positions; full attention then becomes the longformer
            pattern with a window of 512, unless `pattern` or `window` says otherwise. A longer
            table stays. None keeps the table (a fresh encoder: 512).
        positions: What new positions of a lengthened table are: copies of the old ones, or random
            (only to compare: the paper's ablation).
        global_projections: Whether global tokens have projections of their own. None: as in the
            checkpoint, and where the pattern is another one, if it reads global marks. False drops
            those of a Longformer, True adds copies of query, key and value.
        dropout: Share of features that is dropped in training; None keeps that of the checkpoint.
        attention_dropout: The same of attention probabilities.
        checkpointing: Keep only the input of each layer and compute the rest again in the backward
            pass.
        kernel: Attention kernel; auto takes the fastest that can serve.
        train_only: positions: of the encoder, nothing but the position table is trained.
        architecture: Filled in when the encoder has been built, and saved in checkpoints, so that
            these load where `path` is no longer there.
    """

    path: str | None = None
    layers: int | None = None
    heads: int | None = None
    width: int | None = None
    feedforward_width: int | None = None
    token_types: int | None = None
    pooler: bool | None = None
    model_type: str | None = None
    init_std: float | None = None
    pattern: str | dict[str, Any] | None = None
    window: int | list[int] | None = None
    max_length: int | None = None
    positions: Literal["copied", "random"] = "copied"
    global_projections: bool | None = None
    dropout: float | None = None
    attention_dropout: float | None = None
    checkpointing: bool = False
    kernel: str = "auto"
    train_only: Literal["positions"] | None = None
    architecture: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Make the pattern plain data."""
        if isinstance(self.pattern, sp.Pattern):
            object.__setattr__(self, "pattern", sp.to_config(self.pattern))

    def check(self) -> None:
        """Refuse what contradicts itself.

        Not when it is made: the parser of the command line would hide what is wrong.

        Raises:
            ValueError: Two fields exclude each other, or a value is none of those allowed.
        """
        if self.pattern is not None and self.window is not None:
            raise ValueError("encoder takes either pattern or window, got both")
        sizes = [name for name in _SIZES if getattr(self, name) is not None]
        if self.path is not None and sizes:
            raise ValueError(
                f"encoder {sizes[0]} is decided by the weights at path ({self.path}), "
                f"got {sizes[0]}={getattr(self, sizes[0])!r}"
            )
        for name, allowed in (("positions", ("copied", "random")), ("train_only", ("positions",))):
            value = getattr(self, name)
            if value not in allowed and not (name == "train_only" and value is None):
                raise ValueError(
                    f"encoder {name} must be {' or '.join(map(repr, allowed))}, got {value!r}"
                )
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"encoder max_length must be >= 1, got {self.max_length}")

    @classmethod
    def of(cls, value: EncoderSettings | Mapping[str, Any] | None) -> EncoderSettings:
        """Return the settings that `plain()` was made from.

        Raises:
            ValueError: There is no such field (the message suggests near ones), or fields
                contradict each other.
        """
        if isinstance(value, cls):
            value.check()
            return value
        given = dict(cast(Mapping[str, Any], value or {}))
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise ValueError(
                    f"encoder has no field {name!r}.{did_you_mean(name, known)} "
                    f"Known: {', '.join(known)}"
                )
        made = cls(**given)
        made.check()
        return made

    def plain(self) -> dict[str, Any]:
        """Return a dict of plain data, without fields that are as by default."""
        fields = dataclasses.fields(self)
        return {f.name: v for f in fields if (v := getattr(self, f.name)) != f.default}

    def built(self, encoder: Encoder) -> EncoderSettings:
        """Return the same with the architecture filled in, which is built without `path`."""
        config = encoder.config
        plain = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        plain["pattern"] = sp.to_config(config.spec)
        return dataclasses.replace(self, architecture=plain)

    @property
    def absent(self) -> bool:
        """Whether the weights are not where `path` says, and no other setting gives the sizes."""
        return self.path is not None and self.architecture is None and not Path(self.path).exists()


SCRATCH = EncoderSettings()
"""A fresh encoder of base size."""


def build_encoder(settings: EncoderSettings, *, vocabulary_size: int, pad_id: int) -> Encoder:
    """Build an encoder for a data set.

    Words beyond the pretrained vocabulary (special tokens of a task) have fresh rows.

    Args:
        settings: Which encoder.
        vocabulary_size: Token ids of the data set, special ones included.
        pad_id: Id of padding in the data set.

    Returns:
        The encoder in training mode; `encoder.report`, printed, says what was loaded and changed.

    Raises:
        FileNotFoundError: There is nothing at `settings.path`.
        WeightsError: The weights are damaged or do not fit their configuration.
        ValueError: The vocabulary is smaller than that of the weights, or padding has another id.
    """
    settings.check()
    if settings.architecture is not None:
        encoder = _rebuilt(settings, vocabulary_size, pad_id)
    elif settings.path is not None:
        encoder = _pretrained(settings, vocabulary_size, pad_id)
    else:
        config = _scratch(settings, vocabulary_size, pad_id)
        encoder = _fresh(settings, config, "fresh weights")
    train_only(encoder, settings.train_only)
    return encoder.train()


def train_only(encoder: Encoder, which: str | None) -> None:
    """Freeze everything in an encoder but one part, `positions`; None leaves all as it is."""
    if which is None:
        return
    encoder.requires_grad_(False)
    encoder.embeddings.position_embeddings.weight.requires_grad_(True)


def reads_global_mask(encoder: Encoder) -> bool:
    """Return whether the pattern has a use for `global_mask`; the encoder refuses one otherwise."""
    return _reads_marks(encoder.config.spec)


def _reads_marks(pattern: sp.Pattern) -> bool:
    return any(isinstance(atom, sp.BatchGlobal) for atom in pattern.walk())


def _overrides(settings: EncoderSettings) -> dict[str, Any]:
    names = ("dropout", "attention_dropout")
    return {name: v for name in names if (v := getattr(settings, name)) is not None}


def _pattern(settings: EncoderSettings) -> sp.Pattern | None:
    """Return the pattern that is asked for, None for that of the checkpoint."""
    if settings.window is not None:
        return sp.get("longformer", window=settings.window)
    return resolve(settings.pattern) if settings.pattern is not None else None


def _scratch(settings: EncoderSettings, vocabulary_size: int, pad_id: int) -> EncoderConfig:
    sizes: dict[str, Any] = {
        n: d if getattr(settings, n) is None else getattr(settings, n) for n, d in _SIZES.items()
    }
    if sizes["init_std"] is None:
        sizes["init_std"] = _INIT_STD * (_SIZES["width"] / sizes["width"]) ** 0.5
    pattern = _pattern(settings) or sp.Full()
    projections = settings.global_projections
    if projections is None:
        projections = _reads_marks(pattern)
    config = EncoderConfig(
        vocabulary_size=vocabulary_size,
        pad_id=pad_id,
        # Enough for any numbering; cut below to the rows that this one needs.
        positions=pad_id + 2,
        pattern=pattern,
        global_projections=projections,
        **sizes,
        **_overrides(settings),
    )
    length = settings.max_length or _LENGTH
    return config.replace(positions=config.special_positions + length)


def _pretrained(settings: EncoderSettings, vocabulary_size: int, pad_id: int) -> Encoder:
    loaded = load_encoder(str(settings.path))
    old = loaded.config
    _check_tokens(old, vocabulary_size, pad_id, str(settings.path))
    longer = settings.max_length is not None and settings.max_length > old.max_length
    pattern = _pattern(settings)
    if pattern is None and longer and old.spec == sp.Full():
        pattern = sp.get("longformer", window=_WINDOW)
    projections = settings.global_projections
    if projections is None:
        projections = old.global_projections if pattern is None else _reads_marks(pattern)
    config = old.replace(
        vocabulary_size=vocabulary_size,
        pattern=old.spec if pattern is None else pattern,
        global_projections=projections,
        # Only the Longformer of `transformers` has these, and its way to number positions.
        model_type="longformer" if projections else old.model_type,
        positions=old.positions + old.pad_id + 1,
        **_overrides(settings),
    )
    length = settings.max_length if longer else old.max_length
    config = config.replace(positions=config.special_positions + int(length or 0))
    encoder = adapt(loaded, config, kernel=settings.kernel)
    encoder.checkpointing = settings.checkpointing
    lines = _changes(old, config)
    if longer and settings.positions == "random":
        table = encoder.embeddings.position_embeddings.weight
        nn.init.normal_(table.data[config.special_positions :], std=config.init_std)
        lines.append("positions  random, not copied")
    encoder.report = BackboneReport(loaded.report, tuple(lines))
    return encoder


def _rebuilt(settings: EncoderSettings, vocabulary_size: int, pad_id: int) -> Encoder:
    """Build what a checkpoint will fill, without the pretrained weights."""
    assert settings.architecture is not None
    config = EncoderConfig(**settings.architecture)
    _check_tokens(config, vocabulary_size, pad_id, "the checkpoint")
    config = config.replace(vocabulary_size=vocabulary_size, **_overrides(settings))
    pattern = _pattern(settings)
    if pattern is not None:
        config = config.replace(pattern=pattern)
    return _fresh(settings, config, "weights of the checkpoint")


def _fresh(settings: EncoderSettings, config: EncoderConfig, what: str) -> Encoder:
    encoder = Encoder(config, checkpointing=settings.checkpointing, kernel=settings.kernel)
    encoder.report = BackboneReport(None, (what,))
    return encoder


def _check_tokens(config: EncoderConfig, vocabulary_size: int, pad_id: int, source: str) -> None:
    if vocabulary_size < config.vocabulary_size:
        raise ValueError(
            f"the data set has {vocabulary_size} tokens, but the vocabulary of {source} has "
            f"{config.vocabulary_size}: another tokenizer than that of the weights; give the "
            "tokenizer that is beside them"
        )
    if pad_id != config.pad_id:
        raise ValueError(
            f"padding has id {pad_id} in the data set and {config.pad_id} in {source}; give the "
            "tokenizer of the weights"
        )


def _changes(old: EncoderConfig, new: EncoderConfig) -> list[str]:
    lines = []
    if new.max_length > old.max_length:
        copies, rest = divmod(new.max_length, old.max_length)
        lines.append(
            f"positions  {old.max_length} made {new.max_length}: {copies} copies"
            + (f" and {rest} more" if rest else "")
        )
    if new.spec != old.spec:
        lines.append(f"pattern    {new.pattern!r} in place of {old.pattern!r}")
    if new.global_projections and not old.global_projections:
        lines.append("global     projections copied from query, key and value")
    if old.global_projections and not new.global_projections:
        lines.append("global     projections dropped: global tokens use query, key and value")
    if new.vocabulary_size > old.vocabulary_size:
        more = new.vocabulary_size - old.vocabulary_size
        lines.append(f"words      {more} fresh rows for new tokens")
    return lines
