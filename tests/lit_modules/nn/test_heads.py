"""The small heads: values, names of parameters, dropout and fresh weights."""

import torch
from torch import nn

from lit_modules.nn.heads import ClassificationHead, TwoLayers, draw


def test_the_classification_head_is_dense_tanh_projection() -> None:
    head = ClassificationHead(width=6, classes=3).eval()
    token = torch.randn(2, 5, 6)
    dense = torch.tanh(token @ head.dense.weight.T + head.dense.bias)
    expected = dense @ head.out_proj.weight.T + head.out_proj.bias
    assert head(token).shape == (2, 5, 3)
    torch.testing.assert_close(head(token), expected)


def test_the_classification_head_has_the_parameter_names_of_roberta() -> None:
    assert list(ClassificationHead(4, 2).state_dict()) == [
        "dense.weight",
        "dense.bias",
        "out_proj.weight",
        "out_proj.bias",
    ]


def test_the_classification_head_drops_features_only_in_training() -> None:
    head = ClassificationHead(width=64, classes=2, dropout=0.5)
    token = torch.randn(1, 64)
    assert not torch.equal(head(token), head(token))
    head.eval()
    assert torch.equal(head(token), head(token))


def test_everything_dropped_leaves_the_bias_of_the_projection() -> None:
    head = ClassificationHead(width=8, classes=3, dropout=1.0)
    torch.testing.assert_close(head(torch.randn(2, 8)), head.out_proj.bias.expand(2, 3))


def test_two_layers_are_dense_gelu_dense() -> None:
    layers = TwoLayers(inputs=4, inner=6, outputs=2).eval()
    x = torch.randn(3, 4)
    inner = x @ layers[0].weight.T + layers[0].bias
    inner = inner / 2 * (1 + torch.erf(inner / 2**0.5))
    expected = inner @ layers[3].weight.T + layers[3].bias
    torch.testing.assert_close(layers(x), expected)


def test_fresh_weights_are_normal_and_biases_zero() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(200, 100), nn.Linear(100, 200), nn.LayerNorm(200))
    nn.init.ones_(module[1].bias)
    draw(module, std=0.05)
    for weight in (module[0].weight, module[1].weight):
        # 20,000 samples: the standard error of the deviation is 0.05 / sqrt(40,000) = 0.00025.
        assert abs(weight.std().item() - 0.05) < 0.00125
        assert abs(weight.mean().item()) < 0.002
    assert module[1].bias.eq(0).all()
    assert module[2].weight.eq(1).all(), "a norm keeps its weights"


def test_a_linear_layer_without_bias_is_drawn() -> None:
    layer = nn.Linear(10, 10, bias=False)
    before = layer.weight.detach().clone()
    draw(layer, std=0.02)
    assert not torch.equal(layer.weight, before)
