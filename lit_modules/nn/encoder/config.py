"""The configuration of an encoder, frozen, and its form as a Hugging Face `config.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sparse_patterns as sp
from lit_modules.nn.activations import ACTIVATIONS
from lit_modules.nn.patterns import PatternLike, resolve
from sparse_patterns.spec.algebra import has_global_rows
from sparse_patterns.spec.binding import bind

__all__ = ["MODEL_TYPES", "EncoderConfig", "attention_windows"]

MODEL_TYPES = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "camembert": "CamembertModel",
    "longformer": "LongformerModel",
}
"""Architectures of this layout, and the class of `transformers` that each is saved for."""

# Our fields by their names in `config.json`.
_NAMES = {
    "vocabulary_size": "vocab_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "width": "hidden_size",
    "feedforward_width": "intermediate_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "pad_id": "pad_token_id",
    "activation": "hidden_act",
    "layer_norm_eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "init_std": "initializer_range",
}

# What `transformers` assumes where a file omits a field, beside the architecture's pad id.
_DEFAULTS = {
    "layers": 12,
    "heads": 12,
    "width": 768,
    "feedforward_width": 3072,
    "positions": 512,
    "token_types": 2,
    "activation": "gelu",
    "layer_norm_eps": 1e-12,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "init_std": 0.02,
}

# Fields without a counterpart in `transformers`.
_OWN = "sparse_patterns"


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes and the pattern of an encoder.

    Attributes:
        vocabulary_size: Number of token ids.
        layers: Number of layers.
        heads: Attention heads of a layer.
        width: Features of a token; a multiple of `heads`.
        feedforward_width: Features inside the feed-forward; four times `width` by default.
        positions: Rows of the position table, those that RoBERTa leaves for padding included.
        token_types: Rows of the token-type table.
        pad_id: Id of padding.
        pattern: What attends to what: a registered name, a config or a pattern.
        global_projections: Whether global tokens have query, key and value projections of their
            own.
        pooler: Whether there is a layer on the first token.
        activation: Activation of the feed-forward.
        layer_norm_eps: Added to variances.
        dropout: Share of features that is dropped in training.
        attention_dropout: Share of attention probabilities that is dropped in training.
        init_std: Standard deviation of fresh weights.
        model_type: One of `MODEL_TYPES`; by default `longformer` with global projections, else
            `roberta`. `bert` numbers positions from 0, the others from `pad_id + 1`.
        extra: Further fields of the `config.json` that it was read from, kept for saving.

    Raises:
        ValueError: A number is out of range or does not fit another one, or a name is unknown.
    """

    vocabulary_size: int
    layers: int = 12
    heads: int = 12
    width: int = 768
    feedforward_width: int | None = None
    positions: int = 514
    token_types: int = 1
    pad_id: int = 1
    pattern: PatternLike = field(default_factory=sp.Full)
    global_projections: bool = False
    pooler: bool = True
    activation: str = "gelu"
    layer_norm_eps: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.1
    init_std: float = 0.02
    model_type: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Fill in what depends on other fields, and check all of them."""
        given = object.__setattr__
        given(self, "pattern", resolve(self.pattern))
        given(self, "extra", dict(self.extra))
        if self.feedforward_width is None:
            given(self, "feedforward_width", 4 * self.width)
        if self.model_type is None:
            given(self, "model_type", "longformer" if self.global_projections else "roberta")
        for name in ("vocabulary_size", "layers", "heads", "width", "feedforward_width"):
            _check_integer(name, getattr(self, name), 1)
        _check_integer("token_types", self.token_types, 1)
        _check_integer("pad_id", self.pad_id, 0)
        if self.model_type not in MODEL_TYPES:
            raise ValueError(
                f"model_type must be one of {', '.join(MODEL_TYPES)}, got {self.model_type!r}"
            )
        _check_integer("positions", self.positions, self.special_positions + 1)
        if self.pad_id >= self.vocabulary_size:
            raise ValueError(
                f"pad_id must be below vocabulary_size ({self.vocabulary_size}), got {self.pad_id}"
            )
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in 0..1 (1 excluded), got {getattr(self, name)}")
        if not self.init_std > 0:
            raise ValueError(f"init_std must be > 0, got {self.init_std}")
        for layer in range(self.layers):
            bind(self.spec, heads=self.heads, layer=layer, layers=self.layers)
        if self.global_projections and not has_global_rows(self.spec):
            raise ValueError(
                "global_projections need a pattern with global rows, Global(tokens) or "
                f"BatchGlobal(), got {self.pattern!r}"
            )

    @property
    def spec(self) -> sp.Pattern:
        """The pattern."""
        assert isinstance(self.pattern, sp.Pattern)
        return self.pattern

    @property
    def special_positions(self) -> int:
        """Rows of the position table before that of the first token."""
        return 0 if self.model_type == "bert" else self.pad_id + 1

    @property
    def max_length(self) -> int:
        """Tokens of the longest text."""
        return self.positions - self.special_positions

    @classmethod
    def from_huggingface(cls, config: Mapping[str, Any]) -> EncoderConfig:
        """Read the content of a `config.json`, that of the Longformer authors included.

        Args:
            config: What the file holds. The authors of Longformer write `attention_mode`, and
                their `attention_window` counts one side.

        Raises:
            ValueError: The architecture is another one, or uses what this encoder does not have.
        """
        config = dict(config)
        own = config.pop(_OWN, None) or {}
        authors = config.pop("attention_mode", None)
        model_type = "longformer" if authors else str(config.pop("model_type", None))
        config.pop("model_type", None)
        if model_type not in MODEL_TYPES:
            raise ValueError(
                f"config has model_type {model_type!r}; this encoder reads {', '.join(MODEL_TYPES)}"
            )
        _refuse_other_architectures(config)
        fields = {**_DEFAULTS, "pad_id": 0 if model_type == "bert" else 1}
        for name, theirs in _NAMES.items():
            value = config.pop(theirs, None)
            if value is not None:
                fields[name] = value
        if "vocabulary_size" not in fields:
            raise ValueError("config has no vocab_size")
        window = config.pop("attention_window", 512)
        dilation = config.pop("attention_dilation", 1)
        if authors:
            window = [2 * w for w in window] if isinstance(window, list) else 2 * window
        if model_type == "longformer":
            fields["pattern"] = sp.get("longformer", window=window, dilation=dilation)
            fields["global_projections"] = True
        if "pattern" in own:
            fields["pattern"] = sp.from_config(own["pattern"])
        if "global_projections" in own:
            fields["global_projections"] = bool(own["global_projections"])
        return cls(**fields, model_type=model_type, extra=config)  # type: ignore[arg-type]

    def to_huggingface(self) -> dict[str, Any]:
        """Return the content of a `config.json` that `transformers` and `from_huggingface` read."""
        assert self.model_type is not None
        config: dict[str, Any] = {
            **self.extra,
            "architectures": [MODEL_TYPES[self.model_type]],
            "model_type": self.model_type,
            **{theirs: getattr(self, ours) for ours, theirs in _NAMES.items()},
        }
        windows = attention_windows(self)
        if self.model_type == "longformer":
            config["attention_window"] = windows or [512] * self.layers
        if self.differences():
            config[_OWN] = {
                "pattern": sp.to_config(self.spec),
                "global_projections": self.global_projections,
            }
        return config

    def differences(self) -> list[str]:
        """Return why `transformers` would compute something else from the same weights."""
        found = []
        if self.model_type == "longformer":
            windows = attention_windows(self)
            if windows is None:
                found.append(f"its Longformer has no pattern {self.pattern!r}")
            elif any(max(windows) % window for window in windows):
                found.append(
                    f"its Longformer stops at windows of {windows} tokens: the largest must be a "
                    "multiple of each"
                )
            if not self.global_projections:
                found.append("its Longformer always has global projections")
        else:
            if self.pattern != sp.Full():
                found.append(f"its {self.model_type} has no pattern {self.pattern!r}")
            if self.global_projections:
                found.append(f"its {self.model_type} has no global projections")
        return found

    def replace(self, **changes: Any) -> EncoderConfig:
        """Return the same with some fields changed."""
        return dataclasses.replace(self, **changes)


def attention_windows(config: EncoderConfig) -> list[int] | None:
    """Return the windows of each layer as Hugging Face's Longformer counts them, on both sides.

    None where the pattern is another one: dilated, different by head, with fixed global tokens.
    """
    windows = []
    for layer in range(config.layers):
        patterns = set(bind(config.spec, heads=config.heads, layer=layer, layers=config.layers))
        one = patterns.pop()
        if patterns or not isinstance(one, sp.Union) or len(one.parts) != 2:
            return None
        window, marks = sorted(one.parts, key=lambda part: isinstance(part, sp.BatchGlobal))
        if not isinstance(window, sp.Window) or marks != sp.BatchGlobal():
            return None
        if window.left != window.right or window.dilation != 1 or window.left < 1:
            return None
        windows.append(2 * window.left)
    return windows


def _refuse_other_architectures(config: Mapping[str, Any]) -> None:
    """Refuse fields that change what is computed."""
    fine = {
        "position_embedding_type": (None, "absolute"),
        "is_decoder": (None, False),
        "add_cross_attention": (None, False),
        "embedding_size": (None, config.get("hidden_size")),
    }
    for name, values in fine.items():
        if config.get(name) not in values:
            raise ValueError(
                f"config has {name}={config[name]!r}; this encoder has none but {values[-1]!r}"
            )


def _check_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an int >= {least}, got {value!r}")
