"""Checkpoints of the first releases load: names of parameters and hyper-parameters, by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_modules.candidate_choice import CandidateChoice
from lit_modules.cli import main
from lit_modules.language_model import LanguageModel

LINEAR = ("weight", "bias")

DECODER = {
    "net.embedding.weight": (256, 8),
    "net.blocks.0.attention_norm.weight": (8,),
    "net.blocks.0.attention_norm.bias": (8,),
    "net.blocks.0.attention.project_in.weight": (24, 8),
    "net.blocks.0.attention.project_out.weight": (8, 8),
    "net.blocks.0.feedforward_norm.weight": (8,),
    "net.blocks.0.feedforward_norm.bias": (8,),
    "net.blocks.0.feedforward.project_in.weight": (32, 8),
    "net.blocks.0.feedforward.project_out.weight": (8, 32),
    "net.norm.weight": (8,),
    "net.norm.bias": (8,),
}

LANGUAGE_MODEL = {
    **{"_class_path": "lit_modules.language_model.LanguageModel", "vocabulary_size": 256},
    **{"unit": "byte", "layers": 1, "heads": 2, "width": 8, "feedforward_width": None},
    **{"positions": "rotary", "max_length": None, "dropout": 0.1, "attention_dropout": 0.0},
    **{"memory": False, "kernel": "auto", "checkpointing": False, "compile": False},
    **{"learning_rate": 0.001, "weight_decay": 0.01, "betas": [0.9, 0.95], "max_new": 256},
    **{"temperature": 1.0, "top_k": None, "top_p": None, "greedy": False, "sample_seed": 0},
    "_instantiator": "lightning.pytorch.cli.instantiate_module",
    "pattern": {
        "per_head": [
            {"window": {"left": {"linear": [32, 512]}, "right": 0}},
            {
                "window": {
                    **{"left": {"linear": [32, 512]}, "right": 0},
                    "dilation": {"spread": [1, 1, 1, 2, 3, 4]},
                }
            },
        ],
        "rest": True,
    },
}

_LAYER = "encoder.encoder.layer.0"

ENCODER = {
    "encoder.embeddings.word_embeddings.weight": (40, 16),
    "encoder.embeddings.position_embeddings.weight": (66, 16),
    "encoder.embeddings.token_type_embeddings.weight": (1, 16),
    **{f"encoder.embeddings.LayerNorm.{part}": (16,) for part in LINEAR},
    **{
        f"{_LAYER}.attention.self.{name}{own}.{part}": (16, 16) if part == "weight" else (16,)
        for own in ("", "_global")
        for name in ("query", "key", "value")
        for part in LINEAR
    },
    f"{_LAYER}.attention.output.dense.weight": (16, 16),
    f"{_LAYER}.attention.output.dense.bias": (16,),
    **{f"{_LAYER}.attention.output.LayerNorm.{part}": (16,) for part in LINEAR},
    f"{_LAYER}.intermediate.dense.weight": (64, 16),
    f"{_LAYER}.intermediate.dense.bias": (64,),
    f"{_LAYER}.output.dense.weight": (16, 64),
    f"{_LAYER}.output.dense.bias": (16,),
    **{f"{_LAYER}.output.LayerNorm.{part}": (16,) for part in LINEAR},
    "answer_score.weight": (1, 16),
}

CANDIDATE_CHOICE = {
    **{"_class_path": "lit_modules.candidate_choice.CandidateChoice", "vocabulary_size": 40},
    **{"pad_id": 0, "pretrained_head": False, "learning_rate": 3e-5, "head_learning_rate": None},
    **{"weight_decay": 0.01, "betas": [0.9, 0.999], "warmup": 0.1, "decay": "linear"},
    "_instantiator": "lightning.pytorch.cli.instantiate_module",
    "encoder": {
        **{"layers": 1, "heads": 2, "width": 16, "window": 16, "max_length": 64},
        "architecture": {
            **{"vocabulary_size": 40, "layers": 1, "heads": 2, "width": 16},
            **{"feedforward_width": 64, "positions": 66, "token_types": 1, "pad_id": 0},
            "pattern": {"union": [{"window": {"left": 8, "right": 8}}, {"batch_global": {}}]},
            **{"global_projections": True, "pooler": False, "activation": "gelu"},
            **{"layer_norm_eps": 1e-05, "dropout": 0.1, "attention_dropout": 0.1},
            **{"init_std": 0.1386, "model_type": "longformer", "extra": {}},
        },
    },
}


def write(
    path: Path, shapes: dict[str, tuple[int, ...]], parameters: dict[str, Any], **more: Any
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    content = {
        "epoch": 1,
        "global_step": 4,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state,
        "hparams_name": None,
        "hyper_parameters": parameters,
        **more,
    }
    torch.save(content, path)
    return state


# Lightning calls jsonargparse in a way that it has deprecated.
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_a_language_model_loads_and_generates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "last.ckpt"
    state = write(
        *(file, DECODER, LANGUAGE_MODEL),
        language_model={"window_scale": 0.5},
        sparse_patterns_data={
            "class_path": "datamodules.text_files.TextFiles",
            "init_args": {"files": "text", "tokenizer": None, "stream": True, "cache_dir": None},
        },
    )
    model = LanguageModel.load_from_checkpoint(file)
    assert model.window_scale == 0.5
    same(model.state_dict(), state)
    words = ["generate", "--ckpt_path", str(file), "--prompt", "ab", "--max-new", "3", "--greedy"]
    assert main([*words, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("ab")


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_a_task_model_loads(tmp_path: Path) -> None:
    state = write(tmp_path / "best.ckpt", ENCODER, CANDIDATE_CHOICE)
    model = CandidateChoice.load_from_checkpoint(tmp_path / "best.ckpt")
    same(model.state_dict(), state)


def same(loaded: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    assert list(loaded) == list(saved)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
