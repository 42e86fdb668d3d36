"""The rolling cache: the numbers of one full pass, from no more keys than later queries can see."""

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.nn.kv_cache import PIECE
from sparse_patterns.nn.kv_store import MIN_SLACK

CAUSAL = sp.Causal()
SINKS = sp.Global((0,), rows=False)


def first_four(q: Tensor, k: Tensor, head: int) -> Tensor:
    return (k < 4 + head) & (q >= k)


PATTERNS = {
    "full": CAUSAL,
    "window": sp.Window.before(7),
    "window 0": sp.Window.before(0),
    "sinks": sp.Window.before(6) | SINKS,
    "early globals": (sp.Window(6, 6) | sp.Global((0, 3, 30))) & CAUSAL,
    "dilated heads": sp.Window.before((5, 5, 9, 9), dilation=(1, 1, 3, 2)),
    "strided": sp.PerHead(sp.Window.before(8), sp.Strided(8) & CAUSAL),
    "fixed": (sp.LocalBlock(9) | sp.Summary(9, 2)) & CAUSAL,
    "fixed heads": sp.PerHead(sp.LocalBlock(9), sp.Summary(9, 2)) & CAUSAL,
    "empty rows": sp.Window.before(6) & ~sp.Window.before(3) & ~sp.Strided(5),
    "grid": sp.GridWindow((15, 8), (1, 3), (2, 1), prefix=5) & CAUSAL | SINKS & CAUSAL,
    "table": sp.BlockTable(("1000", "0100", "1010", "1101"), 16) & CAUSAL,
    "rule": sp.Rule(first_four) & CAUSAL | sp.Window.before(3),
}


def make_inputs(length: int, *, heads: int = 4, kv_heads: int = 4, batch: int = 2) -> list[Tensor]:
    shapes = [(batch, h, length, 8) for h in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def reference(
    q: Tensor, k: Tensor, v: Tensor, pattern: sp.Pattern, scale: float | None = None, **where: int
) -> Tensor:
    """One full pass in float64, straight from the oracle."""
    heads, length = q.shape[1:3]
    k, v = (t.repeat_interleave(heads // t.shape[1], 1) for t in (k, v))
    mask = sp.dense_mask(pattern, length, heads=heads, **where)
    scores = q @ k.transpose(2, 3) * (scale or q.shape[3] ** -0.5)
    scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).masked_fill(~mask.any(-1, keepdim=True), 0) @ v


def feed(cache: sp.KeyValueCache, tensors: list[Tensor], chunks: list[int], **how: float) -> Tensor:
    """Bring the tokens in chunks; the last chunk size repeats until all are in."""
    outputs, start, length = [], 0, tensors[0].shape[2]
    while start < length:
        size = chunks[min(len(outputs), len(chunks) - 1)]
        new = [tensor[:, :, start : start + size] for tensor in tensors]
        outputs.append(cache.attend(*new, **how))
        start += size
        assert cache.position == min(start, length)
    return torch.cat(outputs, 2)


def assert_same(got: Tensor, wanted: Tensor, atol: float = 1e-13) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


# Many calls of one token take longest.
CHUNKS = [[80, 1], [1, 5], [40, 23, 8], [200]]


@pytest.mark.parametrize(
    "chunks",
    [*CHUNKS, *(pytest.param(x, marks=pytest.mark.long) for x in ([1], [17, 1]))],
    ids=str,
)
@pytest.mark.parametrize("name", PATTERNS)
def test_any_chunks_give_the_numbers_of_one_pass(name: str, chunks: list[int]) -> None:
    tensors = make_inputs(150)
    pattern = PATTERNS[name]
    got = feed(sp.KeyValueCache(pattern, heads=4), tensors, chunks)
    assert_same(got, reference(*tensors, pattern))


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_query_heads(name: str, kv_heads: int) -> None:
    tensors = make_inputs(100, kv_heads=kv_heads)
    pattern = PATTERNS[name]
    got = feed(sp.KeyValueCache(pattern, heads=4), tensors, [20, 5])
    assert_same(got, reference(*tensors, pattern))


# Small enough that keys are dropped within the length of the test.
CAUSAL_PRESETS: dict[str, dict] = {
    "full": {"causal": True},
    "local-global": {"window": 30, "every": 4},
    "longformer-causal": {"window": sp.linear(2, 24)},
    "mistral": {"window": 25},
    "sparse-transformer-fixed": {"block": 16, "columns": 2},
    "sparse-transformer-strided": {"stride": 12},
    "streaming": {"window": 20, "sinks": 3},
    "transformer-xl": {"segment": 10, "memory": 15},
}


@pytest.mark.parametrize("layer", [0, 7, 11])
@pytest.mark.parametrize("name", CAUSAL_PRESETS)
def test_every_causal_preset(name: str, layer: int) -> None:
    tensors = make_inputs(250, heads=8, kv_heads=8, batch=1)
    pattern = sp.get(name, **CAUSAL_PRESETS[name])
    cache = sp.KeyValueCache(pattern, heads=8, layer=layer, layers=12)
    got = feed(cache, tensors, [70, 130, 1])
    assert_same(got, reference(*tensors, pattern, layer=layer, layers=12))
    full_layer = name == "local-global" and layer in (7, 11)
    keeps_all = full_layer or name in ("full", "sparse-transformer-strided")
    assert cache.keys_kept == 250 if keeps_all else cache.keys_kept < 150


def test_no_other_preset_is_causal() -> None:
    assert set(CAUSAL_PRESETS) <= set(sp.names())
    for name in set(sp.names()) - set(CAUSAL_PRESETS):
        with pytest.raises(ValueError, match="the cache"):
            sp.KeyValueCache(sp.get(name), heads=8, layer=3, layers=12)


def test_a_chunk_of_several_pieces() -> None:
    tensors = make_inputs(3 * PIECE + 10, batch=1)
    pattern = PATTERNS["sinks"]
    got = feed(sp.KeyValueCache(pattern, heads=4), tensors, [3, 3 * PIECE])
    assert_same(got, reference(*tensors, pattern))


def test_layers_of_a_schedule() -> None:
    pattern = sp.Window.before(sp.linear(2, 14))
    tensors = make_inputs(60)
    for layer in range(4):
        got = feed(sp.KeyValueCache(pattern, heads=4, layer=layer, layers=4), tensors, [9, 1])
        assert_same(got, reference(*tensors, pattern, layer=layer, layers=4))


def test_scale_is_used_in_every_call() -> None:
    tensors = make_inputs(40)
    got = feed(sp.KeyValueCache(CAUSAL, heads=4), tensors, [20, 4], scale=0.9)
    assert_same(got, reference(*tensors, CAUSAL, scale=0.9))


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)]
)
def test_half_types_are_as_good_as_their_rounding(dtype: torch.dtype, atol: float) -> None:
    tensors = [tensor.to(dtype) for tensor in make_inputs(80)]
    pattern = PATTERNS["sinks"]
    got = feed(sp.KeyValueCache(pattern, heads=4), tensors, [20, 1])
    assert got.dtype == dtype
    assert_same(got.double(), reference(*(t.double() for t in tensors), pattern), atol)


def test_layout_in_memory_does_not_matter() -> None:
    tensors = make_inputs(50)
    other = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors]
    one, two = (sp.KeyValueCache(PATTERNS["strided"], heads=4) for _ in range(2))
    assert_same(feed(one, tensors, [9, 1]), feed(two, other, [9, 1]))


@pytest.mark.parametrize("first", [1, 200])
def test_memory_of_windows_and_sinks_does_not_grow(first: int) -> None:
    tensors = make_inputs(500, heads=2, kv_heads=2, batch=1)
    cache = sp.KeyValueCache(sp.Window.before(40) | SINKS, heads=2)
    sizes = []
    for start, stop in [(0, first), *((i, i + 1) for i in range(first, 500))]:
        cache.attend(*(tensor[:, :, start:stop] for tensor in tensors))
        # One more than the window: the first token of all; the newest is held for what follows.
        assert cache.keys_kept <= 40 + 1 + 1 + MIN_SLACK
        sizes.append(cache.nbytes)
    assert max(sizes) == sizes[-1] <= 2 * 2 * (42 + MIN_SLACK) * 8 * 8 + (42 + MIN_SLACK) * 8


def test_memory_follows_the_heads_that_need_it() -> None:
    def bytes_after(left: int | tuple[int, ...]) -> int:
        cache = sp.KeyValueCache(sp.Window.before(left), heads=8)
        feed(cache, make_inputs(700, heads=8, kv_heads=8, batch=1), [600, 1])
        return cache.nbytes

    # A share of 6/8 * 64/512 + 2/8 would be perfect without slack and positions.
    assert bytes_after((64,) * 6 + (512,) * 2) < 0.4 * bytes_after(512)


def test_summary_columns_cost_one_key_a_block() -> None:
    cache = sp.KeyValueCache((sp.LocalBlock(64) | sp.Summary(64, 1)) & CAUSAL, heads=1)
    feed(cache, make_inputs(64 * 20, heads=1, kv_heads=1, batch=1), [7, 13])
    assert cache.keys_kept <= 64 + 20 + 13 + MIN_SLACK


def test_a_burst_of_tokens_gives_its_memory_back() -> None:
    tensors = make_inputs(700, heads=1, kv_heads=1, batch=1)
    cache = sp.KeyValueCache(sp.Window.before(8), heads=1)
    feed(cache, [t[:, :, :200] for t in tensors], [1, 199])
    burst = cache.nbytes
    feed_from(cache, tensors, 200)
    assert cache.nbytes < burst / 3


def test_appends_do_not_move_the_buffers_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_patterns.nn.kv_store import Store

    moved: list[int] = []
    plain = Store.compact

    def counted(self: Store, new: int, now: int) -> None:
        moved.append(self.used)
        plain(self, new, now)

    monkeypatch.setattr(Store, "compact", counted)
    for pattern in (sp.Window.before(100), CAUSAL):
        moved.clear()
        tensors = make_inputs(700, heads=1, kv_heads=1, batch=1)
        feed(sp.KeyValueCache(pattern, heads=1), tensors, [1])
        assert 0 < len(moved) <= 700 / MIN_SLACK
        # A share of 1/8 is free after each compaction, so that a token is moved 9 times at most.
        assert sum(moved) <= 9 * 700


def test_reorder_follows_beams() -> None:
    tensors = make_inputs(60, batch=3)
    cache = sp.KeyValueCache(PATTERNS["strided"], heads=4)
    feed(cache, [t[:, :, :30] for t in tensors], [20, 1])
    index = torch.tensor([2, 0, 0, 1])
    cache.reorder(index)
    tensors = [t[index] for t in tensors]
    got = feed_from(cache, tensors, 30)
    assert_same(got, reference(*tensors, PATTERNS["strided"])[:, :, 30:])


def feed_from(cache: sp.KeyValueCache, tensors: list[Tensor], start: int) -> Tensor:
    steps = range(start, tensors[0].shape[2])
    return torch.cat([cache.attend(*(t[:, :, i : i + 1] for t in tensors)) for i in steps], 2)


def test_reset_starts_over_with_another_batch_and_type() -> None:
    cache = sp.KeyValueCache(PATTERNS["sinks"], heads=4)
    feed(cache, make_inputs(30), [10, 1])
    cache.reset()
    assert (cache.position, cache.keys_kept, cache.nbytes) == (0, 0, 0)
    tensors = [t.float() for t in make_inputs(30, batch=3)]
    got = feed(cache, tensors, [10, 1])
    assert_same(got.double(), reference(*(t.double() for t in tensors), PATTERNS["sinks"]), 2e-6)


def test_no_tokens_and_no_examples() -> None:
    cache = sp.KeyValueCache(PATTERNS["sinks"], heads=4)
    nothing = [t[:, :, :0] for t in make_inputs(1)]
    assert cache.attend(*nothing).shape == (2, 4, 0, 8)
    assert cache.position == 0
    tensors = make_inputs(20)
    assert_same(feed(cache, tensors, [10, 1]), reference(*tensors, PATTERNS["sinks"]))
    assert cache.attend(*nothing).shape == (2, 4, 0, 8)
    assert cache.position == 20
    empty = make_inputs(20, batch=0)
    assert feed(sp.KeyValueCache(CAUSAL, heads=4), empty, [10, 1]).shape == (0, 4, 20, 8)


def test_a_prompt_in_inference_mode_goes_on_outside_of_it() -> None:
    tensors = make_inputs(80)
    cache = sp.KeyValueCache(PATTERNS["sinks"], heads=4)
    with torch.inference_mode():
        first = feed(cache, [t[:, :, :40] for t in tensors], [30, 1])
    got = torch.cat([first, feed_from(cache, tensors, 40)], 2)
    assert_same(got, reference(*tensors, PATTERNS["sinks"]))


def test_a_gradient_is_not_lost_in_silence() -> None:
    tensors = [t.requires_grad_() for t in make_inputs(70)]
    cache = sp.KeyValueCache(PATTERNS["sinks"], heads=4)
    with pytest.raises(RuntimeError, match=r"requires one; call it under torch\.no_grad"):
        cache.attend(*tensors)
    with torch.no_grad():
        got = feed(cache, tensors, [8, 1])
    assert not got.requires_grad
    assert_same(got, reference(*tensors, PATTERNS["sinks"]).detach())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (sp.Window(4, 1), r"Window\(4, 1\) \(head 0\) may see keys after the query; write"),
        (sp.Window.before(4) | sp.Global((0,)), r"Global\(\(0,\)\) \(head 0\) may see keys after"),
        (sp.PerHead(CAUSAL, sp.Full()), r"Full\(\) \(head 2\) may see"),
        (CAUSAL & sp.Global((-1,), rows=False), r"Global\(\(-1,\), rows=False\) .* final length"),
        (CAUSAL & sp.RandomBlocks(8, 2), r"RandomBlocks.*\(head 0\): it depends on the final len"),
        (CAUSAL & sp.BatchGlobal(), r"BatchGlobal\(\) \(head 0\): .* global_mask"),
        (CAUSAL & sp.SameDocument(), r"SameDocument\(\) \(head 0\): .* segment_ids"),
    ],
    ids=repr,
)
def test_what_the_cache_cannot_hold_is_refused(pattern: sp.Pattern, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sp.KeyValueCache(pattern, heads=4)


def test_the_layer_must_exist() -> None:
    with pytest.raises(ValueError, match=r"layer must be in 0\.\.1 \(layers=2\), got 2"):
        sp.KeyValueCache(CAUSAL, heads=4, layer=2, layers=2)
    with pytest.raises(TypeError, match=r"write sp\.get\('mistral'\)"):
        sp.KeyValueCache("mistral", heads=4)  # type: ignore[arg-type]


def test_wrong_tensors_are_refused() -> None:
    q, k, v = make_inputs(6)
    cache = sp.KeyValueCache(CAUSAL, heads=4)
    wrong = {
        r"q must have the 4 heads of the cache, got 3": (q[:, :3], k, v),
        r"heads of k must divide the 4 of q, got 3": (q, k[:, :3], v[:, :3]),
        r"q must have shape .*, got \(4, 6, 8\)": (q[0], k, v),
        r"number of new tokens and .* of q, got .* k \(2, 4, 5, 8\)": (q, k[:, :, 1:], v[:, :, 1:]),
        r"k and v must have one shape, .* k \(2, 4, 6, 7\)": (q, k[..., 1:], v),
        r"head_dim of q, got q \(2, 4, 6, 7\)": (q[..., 1:], k, v),
        r"batch, .* of q, got q \(1, 4, 6, 8\)": (q[:1], k, v),
        r"q has torch.float64 on cpu, v has torch.float32 on cpu": (q, k, v.float()),
    }
    for message, tensors in wrong.items():
        with pytest.raises(ValueError, match=message):
            cache.attend(*tensors)
    assert cache.position == 0
    cache.attend(q, k, v)
    for message, tensors in {
        r"batch must be 2 as in the first call, got 1; reset\(\)": (q[:1], k[:1], v[:1]),
        r"kv_heads must be 4 as in the first call, got 2": (q, k[:, :2], v[:, :2]),
        r"dtype must be torch.float64 .*, got torch.float32": (q.float(), k.float(), v.float()),
    }.items():
        with pytest.raises(ValueError, match=message):
            cache.attend(*tensors)
    assert cache.position == 6


def test_a_wrong_order_is_refused() -> None:
    cache = sp.KeyValueCache(CAUSAL, heads=4)
    cache.attend(*make_inputs(3))
    with pytest.raises(ValueError, match=r"index must be in 0\.\.1 \(batch 2\), got \[0, 2\]"):
        cache.reorder(torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"index must be integers .* got torch.bool"):
        cache.reorder(torch.tensor([True, False]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e38])
@pytest.mark.parametrize("which", ["k", "v"])
@pytest.mark.parametrize("at", [3, 12], ids=["in the prompt", "in a later token"])
def test_a_key_that_left_the_window_has_no_influence(at: int, which: str, value: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 40, 8, generator=generator) for _ in range(3))
    q[..., 0] = 1e10  # with a key of 1e38, scores overflow
    k[..., 0] = 0
    clean = [k.clone(), v.clone()]
    {"k": k, "v": v}[which][0, 1, at, 0] = value
    outs = []
    for keys, values in (clean, (k, v)):
        cache = sp.KeyValueCache(sp.Window.before(4), heads=2)
        pieces = [slice(0, 8), *(slice(i, i + 1) for i in range(8, 40))]
        outs.append(
            torch.cat([cache.attend(q[:, :, p], keys[:, :, p], values[:, :, p]) for p in pieces], 2)
        )
    blind = torch.ones(40, dtype=torch.bool)
    blind[at : at + 5] = False
    torch.testing.assert_close(outs[1][:, :, blind], outs[0][:, :, blind], rtol=0, atol=2e-6)
    torch.testing.assert_close(outs[1][:, 0], outs[0][:, 0], rtol=0, atol=2e-6)
    assert not torch.equal(outs[1][:, 1, ~blind], outs[0][:, 1, ~blind])
