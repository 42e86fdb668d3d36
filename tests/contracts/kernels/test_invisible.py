"""What is invisible has no influence: NaN, infinity and 1e38 touch what sees them and nothing else.

One element of one input is replaced. Rows that do not see its position, and gradients that depend
on such rows alone, must be those of the same call with 0 in its place. All others must be those of
a reference in float64 that is given, row by row, only the keys that the row sees.

Kernels that need a GPU run here as their emulations; the real ones are held to the same by the
tests marked `cuda`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.spec.base import uses
from tests.contracts.kernels.cases import make_case
from tests.contracts.kernels.emulated.flex import EmulatedFlex
from tests.contracts.kernels.emulated.fused import EmulatedFused
from tests.contracts.kernels.holding import make_inputs
from tests.contracts.kernels.reference import global_rows
from tests.random_specs import Case

LENGTH, BATCH, HEADS, KV_HEADS = 24, 2, 4, 2
PADDED = torch.arange(LENGTH) >= torch.tensor([[LENGTH], [17]])
SEGMENTS = (torch.arange(LENGTH) >= 11).long().expand(BATCH, LENGTH)
VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "1e38": 1e38}
NAMES = ("q", "k", "v", "global_q", "global_k", "global_v")
PRESETS = {
    "sliding": sp.Window(4, 2),
    "longformer": sp.Window(3, 3, (1, 2, 1, 3)) | sp.BatchGlobal(),
    "sparse transformer": (sp.Summary(6, 1) | sp.LocalBlock(6)) & sp.Causal(),
}
# (example, position) of the replaced element, and the fields of the call.
PLACES = {
    "padding": ((1, 20), {"key_mask": ~PADDED}),
    "documents": ((0, 6), {"segment_ids": SEGMENTS}),
    "outside": ((0, 12), {}),
}


def case_of(preset: str, place: str) -> Case:
    """The case of a preset, with global tokens where it takes them."""
    pattern = PRESETS[preset]
    if place == "documents":
        pattern = pattern & sp.SameDocument()
    fields = dict(PLACES[place][1])
    if uses(pattern, sp.BatchGlobal):
        fields["global_mask"] = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
        fields["global_mask"][0, [0, 16]] = True
        fields["global_mask"][1, [2, 20]] = True  # padded in one of the places
    sizes = {"batch": BATCH, "heads": HEADS, "kv_heads": KV_HEADS}
    return make_case(pattern, LENGTH, **sizes, **fields)


@dataclass(frozen=True)
class Found:
    """Output, log-sum-exp (0 in rows without keys) and the gradients of the inputs."""

    out: Tensor
    lse: Tensor
    grads: tuple[Tensor, ...]

    def all(self) -> dict[str, Tensor]:
        """All by name."""
        grads = {f"gradient of {name}": x for name, x in zip(NAMES, self.grads, strict=False)}
        return {"out": self.out, "lse": self.lse, **grads}


@dataclass(frozen=True)
class Setup:
    """A call, which element of which input is replaced, and by what."""

    case: Case
    number: int
    value: float
    at: tuple[int, int]
    own: bool = False

    def inputs(self) -> tuple[list[Tensor], Tensor, Tensor]:
        """Inputs with the value in the place, and the gradients of output and log-sum-exp."""
        inputs, grad_out, grad_lse = make_inputs(self.case, torch.float32, own=self.own)
        example, position = self.at
        inputs[self.number][example, 1, position, 3] = self.value
        return inputs, grad_out, grad_lse

    def seen(self) -> Tensor:
        """What is visible, bool `(batch, heads, queries, keys)`."""
        case = self.case
        mask = sp.dense_mask(case.pattern, case.q_len, case.kv_len, **case.mask_arguments())
        return mask.expand(case.batch, *mask.shape[-3:])

    def own_rows(self) -> Tensor:
        """Which rows are computed from `global_qkv`, bool `(batch, heads, queries)`."""
        case = self.case
        if not self.own:
            return torch.zeros(case.batch, case.heads, case.q_len, dtype=torch.bool)
        return global_rows(
            case.pattern, case.batch, case.q_len, case.kv_len, **case.mask_arguments()
        )

    def touched(self) -> list[Tensor]:
        """Which rows the value may touch of output, log-sum-exp and each gradient."""
        seen, own = self.seen(), self.own_rows()
        example, position = self.at
        share = self.case.heads // self.case.kv_heads
        rows = torch.zeros_like(own)
        if self.number % 3 == 0:
            rows[example, 1, position] = seen[example, 1, position].any()
        else:
            heads = slice(share, 2 * share)
            rows[example, heads] = seen[example, heads, :, position]
        rows = rows & (own if self.number >= 3 else ~own)
        touched = [rows, rows]
        for of_rows in (rows & ~own, rows & own) if self.own else (rows,):
            keys = (seen & of_rows[..., None]).any(2).unflatten(1, (-1, share)).any(2)
            touched += [of_rows, keys, keys]
        return touched


@cache
def reference(preset: str, place: str, number: int, value: str, own: bool = False) -> Found:
    """Attention in float64: a row that sees the value is given the keys that it sees, no others.

    All other rows are computed at once, with 0 in place of the value.
    """
    setup = setup_of(preset, place, number, value, own)
    touched = setup.touched()[0]
    plain = replace(setup, value=0.0)
    leaves = [x.double().requires_grad_() for x in plain.inputs()[0]]
    grad_out, grad_lse = (x.double() for x in plain.inputs()[1:])
    seen, special = setup.seen(), setup.own_rows()
    share = setup.case.heads // setup.case.kv_heads
    parts = [_masked(*leaves[at : at + 3], seen, share) for at in range(0, len(leaves), 3)]
    out, lse = (
        torch.where(special.view(*special.shape, *[1] * (a.ndim - 3)), b, a)
        for a, b in zip(parts[0], parts[-1], strict=True)
    )
    dropped = touched | ~seen.any(-1)
    upstream = [grad_out.masked_fill(dropped[..., None], 0), grad_lse.masked_fill(dropped, 0)]
    grads = list(torch.autograd.grad([out, lse], leaves, upstream))
    out, lse, inputs = out.detach(), lse.detach(), setup.inputs()[0]
    for example, head, row in touched.nonzero().tolist():
        at = 3 if special[example, head, row] else 0
        keys = seen[example, head, row].nonzero().flatten()
        query = inputs[at][example, head, row].double().requires_grad_()
        key, val = (
            x[example, head // share][keys].double().requires_grad_()
            for x in inputs[at + 1 : at + 3]
        )
        scores = key @ query / math.sqrt(query.shape[0])
        logs = scores.logsumexp(0)
        result = (scores.softmax(0)[:, None] * val).sum(0)
        out[example, head, row], lse[example, head, row] = result.detach(), logs.detach()
        given = [grad_out[example, head, row], grad_lse[example, head, row]]
        of_row = torch.autograd.grad([result, logs], (query, key, val), given)
        grads[at][example, head, row] += of_row[0]
        grads[at + 1][example, head // share, keys] += of_row[1]
        grads[at + 2][example, head // share, keys] += of_row[2]
    return Found(out, lse, tuple(grads))


def _masked(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, share: int) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of all rows, 0 and -inf for rows that see nothing."""
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~seen, -torch.inf)
    empty = ~seen.any(-1)
    scores = scores.masked_fill(empty[..., None], 0)
    out = (scores.softmax(-1) @ v).masked_fill(empty[..., None], 0)
    return out, scores.logsumexp(-1).masked_fill(empty, -torch.inf)


def setup_of(preset: str, place: str, number: int, value: str, own: bool = False) -> Setup:
    """The call of a test."""
    return Setup(case_of(preset, place), number, VALUES[value], PLACES[place][0], own)


def run(kernel: str, setup: Setup, device: str, dropout_p: float = 0.0) -> Found:
    """Run a kernel forward and backward."""
    inputs, grad_out, grad_lse = setup.inputs()
    dtype = torch.float32 if torch.float32 in KERNELS[kernel].tolerances else torch.bfloat16
    leaves = [x.to(device, dtype).requires_grad_() for x in inputs]
    context = setup.case.mask_arguments()
    del context["heads"]
    context = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in context.items()}
    torch.manual_seed(0)
    out, lse = sp.attention(
        *leaves[:3],
        setup.case.pattern,
        global_qkv=tuple(leaves[3:]) or None,
        kernel=kernel,
        return_lse=True,
        dropout_p=dropout_p,
        **context,
    )
    upstream = [grad_out.to(device, dtype), grad_lse.to(lse)]
    grads = torch.autograd.grad([out, lse], leaves, upstream)
    return Found(out.detach().cpu(), lse.detach().cpu(), tuple(grad.cpu() for grad in grads))


def hold(
    kernel: str,
    device: str,
    setup: Setup,
    want: Found | None,
    clean: Found | None = None,
    dropout_p: float = 0.0,
) -> None:
    """Hold what a kernel gives to the same call with 0, and where it may differ to a reference."""
    got = run(kernel, setup, device, dropout_p)
    if clean is None:
        clean = run(kernel, replace(setup, value=0.0), device, dropout_p)
    allowed = KERNELS[kernel].tolerances[got.out.dtype]
    empty = ~setup.seen().any(-1)
    # Scores are computed anew in the backward pass. Where one rounding of a score is more than 1, a
    # weight is anything from 0 to 1, so what such a row gives its own keys is not determined.
    unresolved = want is not None and bool((want.lse.abs().masked_fill(empty, 0) > 1e7).any())
    assert torch.equal(got.out[empty], torch.zeros_like(got.out[empty]))
    assert torch.equal(got.lse[empty], torch.full_like(got.lse[empty], -torch.inf))
    for name, rows in zip(got.all(), setup.touched(), strict=True):
        limit = allowed.gradient if "gradient" in name else allowed.forward
        found, expected = got.all()[name], clean.all()[name][~rows].double()
        expected = expected.masked_fill(expected == -torch.inf, 0)
        others = found[~rows].double()
        difference = others.masked_fill(others == -torch.inf, 0) - expected
        assert float(difference.abs().max()) <= limit * max(1, float(expected.abs().max())), name
        if want is None:
            continue
        expected = want.all()[name][rows].to(found.dtype).double()
        finite = expected.isfinite()
        assert torch.equal(found[rows].isfinite(), finite), name
        if bool(finite.any()):
            difference = (found[rows].double() - expected)[finite]
            size = max(1, float(expected[finite].abs().max()))
            # Differences of large numbers lose digits in float32.
            limit = 1e-3 if size > 1e6 else 4 * limit
            if "gradient" in name and unresolved:
                continue
            assert float(difference.abs().max()) <= limit * size, name


@pytest.fixture(autouse=True)
def emulations(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Put emulations in place of the kernels for GPUs, in tests on the CPU."""
    if request.node.get_closest_marker("cuda"):
        return
    import torch.nn.attention.flex_attention as library

    monkeypatch.setattr(library, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setitem(KERNELS, "flex", EmulatedFlex(None))
    monkeypatch.setitem(KERNELS, "xformers_fused", EmulatedFused())


everywhere = pytest.mark.parametrize(
    ("kernel", "device"),
    # The backend "FLASH" has no emulation; what is around it is that of `flex`.
    [pytest.param(name, "cpu", id=name) for name in sorted(KERNELS) if name != "flex_flash"]
    + [
        pytest.param(name, "cuda", id=f"{name}-cuda", marks=pytest.mark.cuda)
        for name in sorted(KERNELS)
    ],
)


@everywhere
@pytest.mark.parametrize(
    ("place", "number"),
    [
        # A query touches one row: one place is enough for every day.
        pytest.param(
            place,
            number,
            id=f"{place}-{NAMES[number]}",
            marks=() if number or place == "documents" else pytest.mark.long,
        )
        for place in PLACES
        for number in range(3)
    ],
)
@pytest.mark.parametrize(
    "preset",
    [
        "longformer",
        *(pytest.param(x, marks=pytest.mark.long) for x in PRESETS if x != "longformer"),
    ],
)
@pytest.mark.parametrize(
    "values",
    [("nan", "1e38"), pytest.param(("inf", "-inf"), marks=pytest.mark.long)],
    ids=["nan and 1e38", "infinite"],
)
def test_no_influence(
    kernel: str, device: str, preset: str, place: str, number: int, values: tuple[str, str]
) -> None:
    clean = run(kernel, replace(setup_of(preset, place, number, "nan"), value=0.0), device)
    for value in values:
        want = reference(preset, place, number, value)
        hold(kernel, device, setup_of(preset, place, number, value), want, clean)


@everywhere
@pytest.mark.parametrize("value", ["nan", pytest.param("-inf", marks=pytest.mark.long)])
@pytest.mark.parametrize("number", [1, 3, 4, 5], ids=[NAMES[i] for i in (1, 3, 4, 5)])
@pytest.mark.parametrize(
    "place",
    [x if x == "documents" else pytest.param(x, marks=pytest.mark.long) for x in PLACES],
)
def test_own_projections_of_global_rows(
    kernel: str, device: str, place: str, number: int, value: str
) -> None:
    setup = setup_of("longformer", place, number, value, own=True)
    if number >= 3 and place == "outside":
        setup = replace(setup, at=(0, 16))  # a global token, whose query counts
        hold(kernel, device, setup, None)
    else:
        hold(kernel, device, setup, reference("longformer", place, number, value, own=True))


@pytest.mark.parametrize("kernel", ["dense", "tiles", "xformers_blocks"])
@pytest.mark.parametrize("value", ["nan", pytest.param("1e38", marks=pytest.mark.long)])
@pytest.mark.parametrize("number", range(3), ids=NAMES[:3])
@pytest.mark.parametrize("place", PLACES)
def test_dropout(kernel: str, place: str, number: int, value: str) -> None:
    hold(kernel, "cpu", setup_of("longformer", place, number, value), None, dropout_p=0.3)
