"""Every architecture of `transformers`: works as its own eager attention, or says why not."""

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_MAPPING

import sparse_patterns as sp
from sparse_patterns.huggingface import set_pattern
from tests.huggingface_reference import with_reference
from tests.sparse_patterns.huggingface.architectures import NOT_MADE, NOT_WHOLE, REFUSED, WORKS
from tests.sparse_patterns.huggingface.small import make, on_meta, run

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Models that are being renewed warn of themselves.
    pytest.mark.filterwarnings("ignore"),
]

NEAR = sp.Window(3, 2) | sp.Global((0,))
# Some of each kind, every day; the others take minutes together.
QUICK = {
    "llama",
    "bert",
    "gpt2",
    "vit",
    "layoutlm",
    "hubert",
    "qwen3_next",
    "mamba",
    "t5",
    "gpt_oss",
}
WHY = {name: why for why, names in REFUSED.items() for name in names}


def marked(names: list[str]) -> list[object]:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.mark.parametrize("name", marked(WORKS))
def test_it_equals_its_own_attention_under_the_same_mask(name: str) -> None:
    model = set_pattern(make(name), NEAR)
    got = run(model)
    with with_reference(model, NEAR):
        wanted = run(model)
    model.set_attn_implementation("eager")
    full, scale = run(model), float(wanted.abs().max())
    torch.testing.assert_close(got / scale, wanted / scale, rtol=0, atol=1e-5)
    assert (got - full).abs().max() > 1e-3 * scale


WHOLE = [name for name in WORKS if name not in NOT_WHOLE]
FIRST = {"llama"}


@pytest.mark.parametrize(
    "name",
    [name if name in FIRST else pytest.param(name, marks=pytest.mark.long) for name in WHOLE],
)
def test_it_is_compiled_whole(name: str) -> None:
    torch._dynamo.reset()
    model = set_pattern(make(name), NEAR)
    wanted = run(model)
    model.compile(fullgraph=True, backend="eager")
    got, scale = run(model), float(wanted.abs().max())
    torch.testing.assert_close(got / scale, wanted / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", marked(list(WHY)))
def test_it_is_refused_with_the_reason(name: str) -> None:
    model = on_meta(name)
    with pytest.raises(ValueError, match=WHY[name]):
        set_pattern(model, NEAR)


def test_every_architecture_is_in_one_table() -> None:
    there = [name for name, config in CONFIG_MAPPING.items() if config in MODEL_MAPPING]
    told = [*WORKS, *WHY, *NOT_MADE]
    assert len(told) == len(set(told)) == sum(map(len, REFUSED.values())) + len(WORKS + NOT_MADE)
    if transformers.__version__ == "5.24.0":
        assert sorted(there) == sorted(told)
    assert len(WORKS) > 75
