import itertools
import re

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.spec import presets

NAMES = (
    "axial",
    "bigbird",
    "full",
    "local-global",
    "longformer",
    "longformer-causal",
    "mistral",
    "neighborhood",
    "sparse-transformer-fixed",
    "sparse-transformer-strided",
    "streaming",
    "transformer-xl",
)
SMALL = {
    "axial": {"shape": (3, 4)},
    "bigbird": {"block": 4, "per_row": 1},
    "local-global": {"window": 4, "every": 3},
    "longformer": {"window": 4},
    "longformer-causal": {"window": sp.linear(2, 5)},
    "mistral": {"window": 4},
    "neighborhood": {"shape": (3, 4), "radius": 1},
    "sparse-transformer-fixed": {"block": 4, "columns": 1},
    "sparse-transformer-strided": {"stride": 4},
    "streaming": {"window": 4, "sinks": 2},
    "transformer-xl": {"segment": 3, "memory": 2},
}
CAUSAL = [
    "local-global",
    "longformer-causal",
    "mistral",
    "sparse-transformer-fixed",
    "sparse-transformer-strided",
    "streaming",
    "transformer-xl",
]


def picture(pattern: sp.Pattern, length: int, layer: int = 0, layers: int = 1, heads: int = 1):
    """Return the mask of head 0 as one string of `x` and `.` a query."""
    mask = sp.dense_mask(pattern, length, heads=heads, layer=layer, layers=layers)
    mask = mask[0] if mask.ndim == 4 else mask
    return ["".join("x" if seen else "." for seen in row) for row in mask[0].tolist()]


def test_all_presets_are_there_and_described() -> None:
    assert set(NAMES) <= set(sp.names())
    assert list(sp.names()) == sorted(sp.names())
    for name in NAMES:
        record = sp.describe(name)
        assert record.name == name
        assert len(record.summary) > 10
        for field in record.fields:
            assert not field.required
            assert re.search(rf"^ *{field.name}: ", record.doc, re.MULTILINE), (name, field.name)


@pytest.mark.parametrize("name", NAMES)
def test_presets_serve_any_number_of_heads_and_layers(name: str) -> None:
    for pattern in (sp.get(name), sp.get(name, **SMALL.get(name, {}))):
        for heads, layers in itertools.product((1, 2, 3, 8, 12), (1, 2, 3, 5, 12)):
            for layer in {0, layers // 2, layers - 1}:
                mask = sp.dense_mask(pattern, 9, heads=heads, layer=layer, layers=layers)
                mask = mask[0] if mask.ndim == 4 else mask
                assert mask.shape == (heads, 9, 9)
                assert mask.diagonal(dim1=-2, dim2=-1).all(), "every query sees itself"


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_presets_see_nothing_of_the_future(name: str) -> None:
    pattern = sp.get(name, **SMALL[name])
    for layer in range(6):
        mask = sp.dense_mask(pattern, 40, heads=4, layer=layer, layers=6)
        assert not mask.triu(1).any()


def test_defaults_are_those_of_the_papers() -> None:
    assert sp.get("full") == sp.Full()
    assert sp.get("full", causal=True) == sp.Causal()
    assert sp.get("longformer") == sp.Window(256, 256) | sp.BatchGlobal()
    assert sp.get("transformer-xl") == sp.Window(1023, 0)
    assert sp.get("mistral") == sp.Window(4095, 0)
    assert sp.get("streaming") == (
        (sp.Window(1019, 0) | sp.Global(range(4), rows=False)) & sp.Causal()
    )
    assert sp.get("bigbird") == (
        sp.Window(64, 64) | sp.Global(range(64)) | sp.RandomBlocks(64, 3, 0)
    )
    assert sp.get("sparse-transformer-strided") == (
        (sp.Window(128, 0) | sp.Strided(128)) & sp.Causal()
    )
    assert sp.get("sparse-transformer-fixed") == (
        (sp.LocalBlock(128) | sp.Summary(128, 8)) & sp.Causal()
    )


def test_longformer_sees_513_keys() -> None:
    mask = sp.dense_mask(sp.get("longformer"), 1200, heads=1)[0, 0]
    assert mask[300:900].sum(1).unique().tolist() == [513]


def test_longformer_takes_a_width_per_layer_and_dilation_per_head() -> None:
    pattern = sp.get("longformer", window=[2, 4], dilation=(1, 3))
    assert pattern == sp.Window([1, 2], [1, 2], (1, 3)) | sp.BatchGlobal()


def test_longformer_causal_windows_grow_from_32_to_512() -> None:
    pattern = sp.get("longformer-causal")
    widths = []
    for layer in range(12):
        mask = sp.dense_mask(pattern, 1, 2100, heads=8, layer=layer, layers=12)
        assert mask.sum(-1).unique().numel() == 1, "dilation keeps the number of keys"
        widths.append(int(mask[0].sum()) - 1)
    assert widths[0] == 32
    assert widths[-1] == 512
    assert widths == sorted(widths)
    assert sum(widths) / 12 == pytest.approx(272, abs=0.5)


def test_longformer_causal_dilates_two_heads_of_the_upper_layers() -> None:
    pattern = sp.get("longformer-causal")
    dilations = []
    for layer in range(12):
        mask = sp.dense_mask(pattern, 1, 2100, heads=8, layer=layer, layers=12)
        gaps = [2099 - int(head[0, :-1].nonzero().max()) for head in mask]
        assert sorted(gaps)[:6] == [1] * 6
        dilations.append(sorted(gaps)[6:])
    assert dilations == [[1, 1]] * 6 + [[2, 2]] * 2 + [[3, 3]] * 2 + [[4, 4]] * 2


def test_longformer_causal_takes_the_windows_of_the_ablation() -> None:
    ablation = sp.steps((32, 2), (64, 2), (128, 2), (256, 3), (512, 3))
    pattern = sp.get("longformer-causal", window=ablation, dilated_heads=0)
    keys = [
        int(sp.dense_mask(pattern, 1, 600, heads=1, layer=layer, layers=12).sum()) - 1
        for layer in range(12)
    ]
    assert round(sum(keys) / 12) == 229


def test_transformer_xl_covers_segment_and_memory() -> None:
    """The last query of a segment sees all of the segment and of the memory before it."""
    segment, memory = 6, 4
    mask = sp.dense_mask(
        sp.get("transformer-xl", segment=segment, memory=memory), segment, 10, heads=1
    )
    assert mask[0, -1].all()
    longer = sp.dense_mask(sp.get("transformer-xl", segment=segment, memory=memory), 30, heads=1)
    assert longer[0, -1].sum() == segment + memory
    assert sp.get("transformer-xl", segment=1, memory=0) == sp.Window(0, 0)


def test_mistral_sees_as_many_keys_as_its_window_says() -> None:
    assert sp.dense_mask(sp.get("mistral", window=5), 20, heads=1)[0, -1].sum() == 5
    assert sp.get("mistral", window=[2, 3]) == sp.Window([1, 2], 0)
    assert sp.get("mistral", window=(2, 3)) == sp.Window((1, 2), 0)
    for schedule in (sp.geometric(2, 64), sp.linear(2, 5), sp.geometric(1, 64)):
        mistral = sp.get("mistral", window=schedule)
        for layer in range(3):
            mask = sp.dense_mask(mistral, 80, heads=1, layer=layer, layers=3)
            assert mask[0, -1].sum() == schedule.at(layer, 3)


def test_sparse_transformer_strided() -> None:
    pattern = sp.get("sparse-transformer-strided", stride=3)
    assert picture(pattern, 9) == [
        "x........",
        "xx.......",
        "xxx......",
        "xxxx.....",
        ".xxxx....",
        "..xxxx...",
        "x..xxxx..",
        ".x..xxxx.",
        "..x..xxxx",
    ]


def test_sparse_transformer_fixed() -> None:
    pattern = sp.get("sparse-transformer-fixed", block=4, columns=2)
    assert picture(pattern, 9) == [
        "x........",
        "xx.......",
        "xxx......",
        "xxxx.....",
        "..xxx....",
        "..xxxx...",
        "..xxxxx..",
        "..xxxxxx.",
        "..xx..xxx",
    ]


@pytest.mark.parametrize("name", ["sparse-transformer-strided", "sparse-transformer-fixed"])
def test_sparse_transformer_heads_may_alternate(name: str) -> None:
    merged = sp.dense_mask(sp.get(name, **SMALL[name]), 20, heads=4)
    apart = sp.dense_mask(sp.get(name, **SMALL[name], alternate=True), 20, heads=4)
    assert torch.equal(apart[0], apart[1])
    assert not torch.equal(apart[1], apart[2])
    assert torch.equal(apart[0] | apart[2], merged[0])
    with pytest.raises(ValueError, match=r"PerHead has 2 patterns.* got 3"):
        sp.dense_mask(sp.get(name, alternate=True), 20, heads=3)


def test_streaming() -> None:
    assert picture(sp.get("streaming", window=3, sinks=2), 7) == [
        "x......",
        "xx.....",
        "xxx....",
        "xxxx...",
        "xxxxx..",
        "xx.xxx.",
        "xx..xxx",
    ]


def test_bigbird() -> None:
    pattern = sp.get("bigbird", block=2, per_row=0, global_tokens=1)
    assert picture(pattern, 7) == [
        "xxxxxxx",
        "xxxx...",
        "xxxxx..",
        "xxxxxx.",
        "x.xxxxx",
        "x..xxxx",
        "x...xxx",
    ]
    with_random = sp.dense_mask(sp.get("bigbird", block=8, seed=1), 512, heads=2)
    assert not torch.equal(with_random[0], with_random[1])
    # 8 global, 17 of the window and 3 x 8 random keys, which may fall together.
    assert 41 < with_random[:, 8:].sum(-1).float().mean() <= 49


def test_local_global_sees_everything_in_every_nth_layer() -> None:
    pattern = sp.get("local-global", window=2, every=3)
    for layer in range(7):
        rows = picture(pattern, 4, layer, 7)
        full = ["x...", "xx..", "xxx.", "xxxx"]
        assert rows == (full if layer in (2, 5) else ["x...", "xx..", ".xx.", "..xx"])
    assert picture(pattern, 4) == ["x...", "xx..", ".xx.", "..xx"], "one layer is a local one"


def test_local_global_of_an_encoder() -> None:
    pattern = sp.get("local-global", window=2, every=2, causal=False)
    assert pattern == sp.PerLayer(sp.Window(1, 1), sp.Full(), repeat=True)
    assert sp.get("local-global", every=1) == sp.Causal()
    assert sp.get("local-global", every=1, causal=False) == sp.Full()


@pytest.mark.parametrize(
    ("name", "fields", "error", "message"),
    [
        ("longformer", {"window": 3}, ValueError, "window width must be even"),
        ("longformer", {"windw": 4}, ValueError, "no field 'windw'. Did you mean 'window'"),
        ("longformr", {}, ValueError, "unknown pattern 'longformr'. Did you mean 'longformer'"),
        ("mistral", {"window": 0}, ValueError, "window must be >= 1, got 0"),
        ("mistral", {"window": "4"}, TypeError, "window must be an int, got '4'"),
        ("streaming", {"sinks": -1}, ValueError, "sinks must be >= 0, got -1"),
        ("transformer-xl", {"segment": 0}, ValueError, "segment must be >= 1, got 0"),
        ("transformer-xl", {"memory": -1}, ValueError, "memory must be >= 0, got -1"),
        ("local-global", {"every": 0}, ValueError, "every must be >= 1, got 0"),
        ("local-global", {"causal": 1}, TypeError, "causal must be True or False, got 1"),
        ("full", {"causal": "no"}, TypeError, "causal must be True or False, got 'no'"),
        ("bigbird", {"block": 0}, ValueError, "random blocks block must be >= 1, got 0"),
        ("bigbird", {"global_tokens": -1}, ValueError, "global_tokens must be >= 0, got -1"),
        ("longformer-causal", {"dilated_heads": -1}, ValueError, "dilated_heads must be >= 0"),
        ("sparse-transformer-strided", {"stride": 0}, ValueError, "stride must be >= 1, got 0"),
        ("sparse-transformer-fixed", {"columns": 200}, ValueError, r"columns must be <= size"),
        ("sparse-transformer-fixed", {"alternate": 1}, TypeError, "alternate must be True or"),
    ],
)
def test_wrong_fields_are_refused(
    name: str, fields: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sp.get(name, **fields)


def test_a_pattern_of_ones_own() -> None:
    @sp.register("mine")
    def mine(width: int = 2) -> sp.Pattern:
        """See `width` keys on either side."""
        return sp.Window(width, width)

    assert "mine" in sp.names()
    assert sp.get("mine", width=3) == sp.Window(3, 3)
    assert sp.describe("mine").summary == "See `width` keys on either side."
    with pytest.raises(ValueError, match="'longformer' is already taken"):
        sp.register("longformer")(mine)


def test_what_is_no_pattern_is_refused() -> None:
    @sp.register("wrong")
    def wrong() -> str:
        """Return another name."""
        return "bigbird"

    with pytest.raises(
        TypeError, match="'wrong' must be a Pattern, its function returned 'bigbird'"
    ):
        sp.get("wrong")


def test_the_entry_point_group_is_the_documented_one() -> None:
    assert presets.REGISTRY.entry_points == "sparse_patterns.patterns"
