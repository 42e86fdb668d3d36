"""Masked language models on the disk: encoder and head, by the names of `transformers`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_modules.nn.encoder.config import MODEL_TYPES
from lit_modules.nn.encoder.encoder import EncoderConfig
from lit_modules.nn.encoder.masked_lm import MaskedLM, MaskedLMHead
from lit_modules.pretrained.backbone import EncoderSettings, build_encoder
from lit_modules.pretrained.files import WeightsError, read
from lit_modules.pretrained.loading import ConfigLike, load_parts
from lit_modules.pretrained.names import sort
from lit_modules.pretrained.reports import BackboneReport
from lit_modules.pretrained.saving import save

__all__ = ["build_masked_lm", "load_masked_lm", "save_masked_lm"]

# The head's parameters by the names of RoBERTa and Longformer, and of BERT.
_ROBERTA = {
    "dense.weight": "lm_head.dense.weight",
    "dense.bias": "lm_head.dense.bias",
    "layer_norm.weight": "lm_head.layer_norm.weight",
    "layer_norm.bias": "lm_head.layer_norm.bias",
    "bias": "lm_head.bias",
}
_BERT = {
    "dense.weight": "cls.predictions.transform.dense.weight",
    "dense.bias": "cls.predictions.transform.dense.bias",
    "layer_norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "layer_norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "bias": "cls.predictions.bias",
}
_OLD = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
# Tied to other tensors, so that a file may have them or not.
_DECODERS = ("lm_head.decoder", "cls.predictions.decoder")


def load_masked_lm(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any], config: ConfigLike | Any = None
) -> MaskedLM:
    """Load a `BertForMaskedLM`, `RobertaForMaskedLM` or `LongformerForMaskedLM`.

    Args:
        path_or_state_dict: As in `load_encoder`.
        config: As in `load_encoder`.

    Returns:
        The model, in evaluation mode; `model.encoder.report` says what matched.

    Raises:
        FileNotFoundError: There is no such file or folder.
        WeightsError: As in `load_encoder`, or there is no such head.
    """
    encoder, heads = load_parts(path_or_state_dict, config)
    source = encoder.report.source
    table = encoder.embeddings.word_embeddings.weight
    head = _head_in(heads, encoder.config, table, source)
    if head is None:
        raise WeightsError(
            f"{source} has no head of a masked language model ({_ROBERTA['dense.weight']} or "
            f"{_BERT['dense.weight']}); left over are {', '.join(heads) or 'no names'}"
        )
    left = tuple(name for name in heads if not _of_head(name))
    encoder.report = replace(encoder.report, left_over=left)
    return MaskedLM(encoder, head).eval()


def build_masked_lm(settings: EncoderSettings, *, vocabulary_size: int, pad_id: int) -> MaskedLM:
    """Build a masked language model for a data set, with the head of the weights if there is one.

    With `settings.train_only` that head is frozen, too; a fresh one is trained.

    Args:
        settings: Which encoder.
        vocabulary_size: Token ids of the data set.
        pad_id: Id of padding in the data set.

    Raises:
        FileNotFoundError: There is nothing at `settings.path`.
        WeightsError: The weights are damaged or do not fit their configuration.
        ValueError: The vocabulary is smaller than that of the weights, or padding has another id.
    """
    encoder = build_encoder(settings, vocabulary_size=vocabulary_size, pad_id=pad_id)
    head = None
    if settings.path is not None and settings.architecture is None:
        found = sort(read(settings.path).state, settings.path)
        table = found.encoder["embeddings.word_embeddings.weight"]
        head = _head_in(found.heads, encoder.config, table, settings.path)
        report: BackboneReport = encoder.report
        assert report.loaded is not None
        left = tuple(name for name in found.heads if not (head and _of_head(name)))
        encoder.report = BackboneReport(
            replace(report.loaded, left_over=left),
            (*report.changes, "head       " + ("fresh" if head is None else "loaded")),
        )
    if settings.train_only is not None and head is not None:
        head.requires_grad_(False)
    return MaskedLM(encoder, head).train()


def save_masked_lm(model: MaskedLM, folder: str | os.PathLike[str]) -> None:
    """Write encoder and head, so that the `ForMaskedLM` class of `transformers` loads the folder.

    So does `load_masked_lm`, and `load_encoder` takes the encoder alone. As in `save_encoder`, the
    tokenizer of the weights that it was built from comes along.

    Raises:
        ValueError: The head has an activation that `transformers` has not in this model.
    """
    config = model.encoder.config
    assert config.model_type is not None
    bert = config.model_type == "bert"
    theirs = config.activation if bert else "gelu"
    if model.head.activation != theirs:
        raise ValueError(
            f"the head has activation {model.head.activation!r}, but a {config.model_type} of "
            f"transformers has {theirs!r} there: it would compute something else"
        )
    prefix = config.model_type if config.model_type in ("bert", "longformer") else "roberta"
    state = {f"{prefix}.{name}": tensor for name, tensor in model.encoder.state_dict().items()}
    names = _BERT if bert else _ROBERTA
    state |= {names[name]: tensor for name, tensor in model.head.state_dict().items()}
    architecture = MODEL_TYPES[config.model_type].removesuffix("Model") + "ForMaskedLM"
    save(model.encoder, state, architecture, folder)


def _of_head(name: str) -> bool:
    return any(name.endswith(known) for known in _every_name()) or any(
        f"{decoder}." in name for decoder in _DECODERS
    )


def _every_name() -> list[str]:
    names = [*_ROBERTA.values(), *_BERT.values()]
    return [*names, *(_old(name) for name in names)]


def _old(name: str) -> str:
    for new, old in _OLD.items():
        name = name.replace(new, old)
    return name


def _head_in(
    heads: Mapping[str, Tensor], config: EncoderConfig, table: Tensor, source: str
) -> MaskedLMHead | None:
    """Return the head among the tensors beside an encoder, None if there is none.

    Args:
        heads: The tensors by name.
        config: Of the encoder that is built, which may have more words than the file.
        table: The word embeddings in the file.
        source: Where from, for errors.
    """
    for names, bert in ((_ROBERTA, False), (_BERT, True)):
        anchor = names["dense.weight"]
        places = [key[: -len(anchor)] for key in heads if key.endswith(anchor)]
        if not places:
            continue
        state = {name: _tensor(heads, places[0] + theirs) for name, theirs in names.items()}
        if state["bias"] is None:
            # The spelling in which the bias is that of the last layer alone.
            state["bias"] = _tensor(heads, f"{places[0]}{_DECODERS[bert]}.bias")
        missing = [names[name] for name, tensor in state.items() if tensor is None]
        if missing:
            raise WeightsError(f"the head in {source} lacks {', '.join(missing)}")
        tied = heads.get(f"{places[0]}{_DECODERS[bert]}.weight")
        if tied is not None and not (tied.shape == table.shape and torch.equal(tied, table)):
            raise WeightsError(
                f"{places[0]}{_DECODERS[bert]}.weight of {source} is not the table of word "
                "embeddings: a head with a table of its own cannot be loaded"
            )
        head = MaskedLMHead(config, config.activation if bert else "gelu")
        _fill(head, {name: t for name, t in state.items() if t is not None}, names, source)
        return head
    return None


def _tensor(heads: Mapping[str, Tensor], name: str) -> Tensor | None:
    found = heads.get(name)
    return heads.get(_old(name)) if found is None else found


@torch.no_grad()
def _fill(
    head: MaskedLMHead, state: Mapping[str, Tensor], names: Mapping[str, str], source: str
) -> None:
    for name, parameter in head.named_parameters():
        tensor = state[name].float()
        if name == "bias" and tensor.ndim == 1 and len(tensor) < len(parameter):
            # Words that are new.
            tensor = torch.cat((tensor, tensor.new_zeros(len(parameter) - len(tensor))))
        if tensor.shape != parameter.shape:
            raise WeightsError(
                f"{names[name]} of {source} is {tuple(tensor.shape)}, the configuration needs "
                f"{tuple(parameter.shape)}"
            )
        parameter.copy_(tensor)
