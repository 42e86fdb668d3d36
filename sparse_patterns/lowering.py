"""Lowering: from the terms of one head's pattern to disjoint parts made of runs of tiles.

Cost in time and memory grows with the visible blocks; a term with pairs that must be evaluated one
by one (a `Rule`, an overlap with an earlier term) costs as much as the tiles its bounds leave.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.algebra import BoundRandomBlocks, Union, uses
from sparse_patterns.oracle import Scene, visible
from sparse_patterns.patterns import BatchGlobal, BlockTable, Global, Pattern, SameDocument
from sparse_patterns.random_blocks import draw
from sparse_patterns.runs import Part, Run, Tiles
from sparse_patterns.terms import Term, row_tokens, to_terms, without

MAX_KEYS = 4096
"""Keys of a tile; a longer interval is cut."""

MAX_ROWS = 128
"""Rows of a tile."""

MAX_EDGE = 512
"""Rows of a tile at the end of a sequence."""

MAX_STEP_WITH_EDGES = 16
"""Dilation up to which the ends of a sequence are tiles of their own."""

MAX_GATHERED = 1 << 16
"""Keys that a part gathers; more are split over several parts."""

EVALUATED_AT_ONCE = 1 << 21
"""Pairs evaluated at once, which bounds the memory of lowering."""

STACK_FROM = 8
"""With more different masks than this among tiles of one shape, they are stacked in one run."""


def lower(pattern: Pattern, q_len: int, kv_len: int, q_offset: int) -> tuple[Part, ...]:
    """Return the parts of one head's bound pattern for one shape.

    The rows of global tokens known before the call are a part of their own, last, with `queries`
    set; the other parts may compute these rows too, and what they find is to be dropped.
    Per-example global columns are a part with `dynamic` set whose keys are filled in at the call.
    Per-example rows are not listed here; they are made at the call.
    """
    if not q_len or not kv_len:
        return ()
    parts: list[Part] = []
    terms = to_terms(pattern)
    q = torch.arange(q_len) + q_offset
    for index, term in enumerate(terms):
        earlier = terms[:index]
        if term.batch:
            parts.append(_batch_columns(term, earlier, q_len))
        elif term.layout is not None:
            parts.extend(_layout_parts(term, earlier, q, kv_len))
        else:
            parts.append(_interval_part(term, earlier, q, kv_len))
    tokens = [token - q_offset for token in row_tokens(pattern, kv_len)]
    tokens = [row for row in tokens if 0 <= row < q_len]
    if tokens:
        lone = [atom for atom in alternatives(pattern) if isinstance(atom, Global) and atom.rows]
        known = {token - q_offset for atom in lone for token in atom.positions(kv_len)}
        whole = known.issuperset(tokens)
        parts.append(row_part(pattern, torch.tensor(tokens), kv_len, q_offset, whole))
    return tuple(part for part in parts if part.runs)


def row_part(
    pattern: Pattern, rows: Tensor, kv_len: int, q_offset: int, whole: bool, evaluate: bool = True
) -> Part:
    """Return the part that computes whole rows, exactly as the pattern sees them.

    Args:
        pattern: The bound pattern.
        rows: int64 `(rows,)`, query rows.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
        whole: Whether the rows are known to see every key.
        evaluate: Whether to evaluate now what does not depend on the call.
    """
    dynamic = None
    if not whole and (not evaluate or uses(pattern, BatchGlobal, SameDocument)):
        dynamic = pattern
    runs = []
    for k_start in range(0, kv_len, MAX_KEYS):
        keys = min(MAX_KEYS, kv_len - k_start)
        for first in range(0, rows.numel(), MAX_ROWS):
            some = rows[first : first + MAX_ROWS]
            mask = None
            if not whole and dynamic is None:
                k = torch.arange(k_start, k_start + keys)
                mask = _evaluate(pattern, some[None, :] + q_offset, k[None, :], kv_len)
            runs.append(Run(1, some.numel(), keys, first, 1, 0, k_start, 1, 0, mask))
    return Part("rows", tuple(runs), queries=rows, dynamic=dynamic)


def alternatives(pattern: Pattern) -> tuple[Pattern, ...]:
    """Return the parts of a union, or the pattern itself."""
    return pattern.parts if isinstance(pattern, Union) else (pattern,)


def _batch_columns(term: Term, earlier: list[Term], q_len: int) -> Part:
    """Return the part whose keys are each example's global tokens; its runs have 0 keys so far."""
    tiles, left = divmod(q_len, MAX_ROWS)
    whole = (
        Run(tiles, MAX_ROWS, 0, 0, 1, MAX_ROWS, 0, 1, 0),
        Run(1, left, 0, tiles * MAX_ROWS, 1, 0, 0, 1, 0),
    )
    runs = tuple(run for run in whole if run.tiles and run.rows)
    return Part("batch columns", runs, dynamic=without(term, earlier))


def _evaluate(pattern: Pattern, q: Tensor, k: Tensor, kv_len: int) -> Tensor:
    """Return the visible pairs of tiles, bool `(tiles, rows, keys)`.

    Args:
        pattern: A bound pattern.
        q: int64 `(tiles, rows)`, query positions.
        k: int64 `(tiles, keys)`, key positions.
        kv_len: Number of keys.
    """
    rows = q.shape[1]
    out = torch.empty(q.shape[0], rows, k.shape[1], dtype=torch.bool)
    scene = Scene(kv_len)
    at_once = max(1, EVALUATED_AT_ONCE // max(1, rows * k.shape[1]))
    for first in range(0, q.shape[0], at_once):
        some = slice(first, first + at_once)
        out[some] = visible(pattern, q[some, :, None], k[some, None, :], scene)
    return out


def _tile_rows(width: float, listed: bool) -> int:
    """Return how many query rows a tile takes for keys of a mean width."""
    if listed:
        return MAX_ROWS
    return 32 if width <= 96 else 64 if width <= 1024 else MAX_ROWS


def _edges(
    term: Term, q: Tensor, kv_len: int, step: int, height: int
) -> tuple[Tensor, Tensor] | None:
    """Cut the queries of a window much shorter than the sequence, each end of it to one tile.

    There the windows stick out by a different amount in every row, so that many small tiles would
    share nothing. Returns what `_cut_queries` does, or None where the window is not of that kind.
    """
    if term.blocks or term.columns or step > MAX_STEP_WITH_EDGES or term.left < 0 or term.right < 0:
        return None
    first = max(0, -((int(q[0]) - term.left) // step))
    last = max(0, -((kv_len - 1 - term.right - int(q[-1])) // step))
    shortest = q.numel() // step
    if max(first, last) > MAX_EDGE or first + last + 2 * height > shortest:
        return None
    starts, rows = [], []
    for residue in range(step):
        length = (q.numel() - residue + step - 1) // step
        cuts = torch.tensor(
            [0, *range(first, length - last, height), length - last, length]
        ).unique()
        starts.append(residue + cuts[:-1] * step)
        rows.append(cuts.diff())
    return torch.cat(starts), torch.cat(rows)


def _cut_queries(
    term: Term, q: Tensor, kv_len: int, step: int, height: int
) -> tuple[Tensor, Tensor]:
    """Cut the queries into tiles of about `height` rows, `step` apart.

    Returns:
        First query row and number of rows of each tile, int64 `(tiles,)`.
    """
    q_len = q.numel()
    if term.blocks and step == 1:
        size = min(term.blocks)
        height = -(-size // -(-size // height))
        starts = (q % size % height == 0).nonzero().flatten()
        if not starts.numel() or starts[0] != 0:
            starts = torch.cat([torch.zeros(1, dtype=torch.int64), starts])
        stops = torch.cat([starts[1:], torch.tensor([q_len])])
        return starts, stops - starts
    edges = _edges(term, q, kv_len, step, height)
    if edges is not None:
        return edges
    residues = torch.arange(min(step, q_len))
    lengths = (q_len - residues + step - 1) // step
    longest = int(lengths.max())
    if longest <= 2 * height:
        height = longest
    tile = torch.arange(-(-longest // height))
    starts = (residues[:, None] + tile * height * step).flatten()
    rows = (lengths[:, None] - tile * height).clamp(max=height).flatten()
    return starts[rows > 0], rows[rows > 0]


def _interval_part(term: Term, earlier: list[Term], q: Tensor, kv_len: int) -> Part:
    """Lower a term whose queries each see an interval: of every `dilation`-th key or of a list."""
    listed = term.key_list(kv_len)
    step = 1 if listed is not None else term.dilation
    low, high = term.bounds(q, kv_len)
    if listed is None:
        low, high = low + (q - low) % step, high - (high - q) % step
    else:
        low = torch.searchsorted(listed, low)
        high = torch.searchsorted(listed, high, right=True) - 1
    seen = high >= low
    name = "columns" if listed is not None else "blocks" if term.blocks else "window"
    empty = Part(name, ())
    if not seen.any():
        return empty
    mean = float(((high - low) // step + 1)[seen].float().mean())
    height = _tile_rows(mean, listed is not None)
    starts, rows = _cut_queries(term, q, kv_len, step, height)

    groups = [
        _interval_tiles(term, earlier, q, low, high, listed, kv_len, starts[some], rows[some])
        for some in (rows <= height, rows > height)
        if some.any()
    ]
    runs = _concatenate(groups).to_runs()
    dynamic = without(term, earlier) if term.dynamic else None
    documents = term.documents and not term.dynamic
    return Part(name, runs, listed, step=step, documents=documents, dynamic=dynamic)


def _interval_tiles(
    term: Term,
    earlier: list[Term],
    q: Tensor,
    low: Tensor,
    high: Tensor,
    listed: Tensor | None,
    kv_len: int,
    starts: Tensor,
    rows: Tensor,
) -> Tiles:
    """Return tiles of about one height, with exact masks unless the term is evaluated at the call.

    Args:
        term: The term.
        earlier: Terms whose pairs are taken out.
        q: int64 query positions.
        low: int64, the first key that each query sees, in the order of the keys or the list.
        high: int64, the last key.
        listed: The list of keys, or None.
        kv_len: Number of keys.
        starts: int64 `(tiles,)`, first query row.
        rows: int64 `(tiles,)`, number of rows.
    """
    step = 1 if listed is not None else term.dilation
    # Rows of every tile, padded to the tallest: the first and last key each sees.
    offset = torch.arange(int(rows.max()))
    index = (starts[:, None] + offset * step).clamp(max=q.numel() - 1)
    inside = offset < rows[:, None]
    # In place from here on: these are the largest tensors of a plan.
    low = low[index].masked_fill_(~inside, 1 << 50)
    high = high[index].masked_fill_(~inside, -1)
    del index
    unseen = low > high
    k_first = low.masked_fill_(unseen, 1 << 50).amin(1)
    k_last = high.masked_fill_(unseen, -1).amax(1)
    keep = ~unseen.all(1)
    count = ((k_last - k_first) // step + 1).clamp(min=0)
    pieces = torch.where(keep, -(-count // MAX_KEYS), 0)
    source = torch.repeat_interleave(torch.arange(starts.numel()), pieces)
    number = torch.arange(source.numel()) - (pieces.cumsum(0) - pieces)[source]
    k_start = k_first[source] + number * MAX_KEYS * step
    keys = (count[source] - number * MAX_KEYS).clamp(max=MAX_KEYS)
    tiles = Tiles(
        starts[source], rows[source], k_start, keys, torch.zeros_like(source), [None], step
    )
    inside = inside[source]
    first = low[source].sub_(k_start[:, None]).floor_divide_(step).clamp_(min=0)
    last = high[source].sub_(k_start[:, None]).floor_divide_(step).clamp_(max=keys[:, None] - 1)
    del low, high
    some = first <= last
    first = torch.where(some, first, keys[:, None]).masked_fill_(~inside, -1)
    last.masked_fill_(~(some & inside), -1)

    exact = bool(term.rest) or (listed is not None and term.dilation > 1)
    evaluate = torch.full_like(keep[source], exact)
    k_stop = k_start + (keys - 1) * step
    token_first, token_last = (
        (k_start, k_stop) if listed is None else (listed[k_start], listed[k_stop])
    )
    for other in earlier:
        evaluate |= _may_overlap(
            other, q[tiles.q_start], _last(q, tiles), token_first, token_last, kv_len
        )
    _share_masks(tiles, first, last)
    if term.dynamic or not evaluate.any():
        return tiles
    return _evaluate_tiles(tiles, evaluate, without(term, earlier), q, listed, kv_len)


def _last(q: Tensor, tiles: Tiles) -> Tensor:
    return q[tiles.q_start] + (tiles.rows - 1) * tiles.step


def _may_overlap(
    term: Term, q_first: Tensor, q_last: Tensor, k_first: Tensor, k_last: Tensor, kv_len: int
) -> Tensor:
    """Return, for each tile, whether a term may see one of its pairs; never False where it does."""
    low, _ = term.bounds(q_first, kv_len)
    _, high = term.bounds(q_last, kv_len)
    low, high = torch.maximum(low, k_first), torch.minimum(high, k_last)
    listed = term.key_list(kv_len)
    if listed is None:
        return low <= high
    return torch.searchsorted(listed, low) < torch.searchsorted(listed, high, right=True)


def _share_masks(tiles: Tiles, first: Tensor, last: Tensor) -> None:
    """Set kinds and masks from the first and last column each row sees; both -1 for no row."""
    height = first.shape[1]
    full = ((first <= 0) & ((last == tiles.keys[:, None] - 1) | (first < 0))).all(1)
    generator = torch.Generator().manual_seed(0)
    odd = torch.randint(1, 1 << 62, (2, height), generator=generator) * 2 + 1
    digest = ((first + 2) * odd[0]).sum(1) + ((last + 2) * odd[1]).sum(1)
    digest = digest * 31 + tiles.keys
    digest = torch.where(full, 0, digest)
    _, kind = torch.unique(digest, return_inverse=True)
    tiles.kind = kind
    tiles.masks = [None] * (int(kind.max()) + 1)
    example = torch.full((len(tiles.masks),), -1)
    example[kind] = torch.arange(kind.numel())
    for number, tile in enumerate(example.tolist()):
        if full[tile]:
            continue
        rows, column = int(tiles.rows[tile]), torch.arange(int(tiles.keys[tile]))
        a, b = first[tile, :rows, None], last[tile, :rows, None]
        assert torch.equal(first[kind == number], first[tile].expand_as(first[kind == number]))
        tiles.masks[number] = ((column >= a) & (column <= b))[None]


def _evaluate_tiles(
    tiles: Tiles, evaluate: Tensor, pattern: Pattern, q: Tensor, listed: Tensor | None, kv_len: int
) -> Tiles:
    """Replace the masks of some tiles by exact ones; drop those that see nothing."""
    kept = [_select(tiles, ~evaluate)]
    shape = torch.stack([tiles.rows, tiles.keys], 1)
    for rows, keys in torch.unique(shape[evaluate], dim=0).tolist():
        chosen = evaluate & (tiles.rows == rows) & (tiles.keys == keys)
        some = _select(tiles, chosen)
        at = some.q_start[:, None] + torch.arange(rows) * some.step
        key = some.k_start[:, None] + torch.arange(keys) * some.step
        mask = _evaluate(pattern, q[at], key if listed is None else listed[key], kv_len)
        kept.append(_with_masks(some, mask))
    return _concatenate(kept)


def _with_masks(tiles: Tiles, mask: Tensor) -> Tiles:
    """Give tiles of one shape their masks: none where full, shared where only few differ.

    Tiles that see nothing are dropped.
    """
    count = tiles.q_start.numel()
    flat = mask.reshape(count, -1)
    generator = torch.Generator().manual_seed(1)
    odd = torch.randint(1, 1 << 62, (flat.shape[1],), generator=generator) * 2 + 1
    at_once = max(1, EVALUATED_AT_ONCE // max(1, flat.shape[1]))
    digest = torch.cat([(part * odd).sum(1) for part in flat.split(at_once)])
    seen = flat.any(1)
    full = flat.all(1)
    digest = torch.where(full, -1, digest)
    values, kind = torch.unique(digest, return_inverse=True)
    if values.numel() <= STACK_FROM:
        tiles.masks = []
        for number in range(values.numel()):
            tile = int((kind == number).nonzero()[0])
            same = flat[kind == number]
            assert torch.equal(same, flat[tile].expand_as(same))
            tiles.masks.append(None if full[tile] else mask[tile : tile + 1])
        tiles.kind = kind
    else:
        tiles.kind = full.long()
        tiles.masks = [mask[seen & ~full], None]
    return _select(tiles, seen)


def _select(tiles: Tiles, which: Tensor) -> Tiles:
    return Tiles(
        tiles.q_start[which],
        tiles.rows[which],
        tiles.k_start[which],
        tiles.keys[which],
        tiles.kind[which],
        tiles.masks,
        tiles.step,
    )


def _concatenate(groups: list[Tiles]) -> Tiles:
    kinds: list[Tensor] = []
    masks: list[Tensor | None] = []
    for group in groups:
        kinds.append(group.kind + len(masks))
        masks.extend(group.masks)
    return Tiles(
        torch.cat([group.q_start for group in groups]),
        torch.cat([group.rows for group in groups]),
        torch.cat([group.k_start for group in groups]),
        torch.cat([group.keys for group in groups]),
        torch.cat(kinds),
        masks,
        groups[0].step,
    )


def _layout_parts(term: Term, earlier: list[Term], q: Tensor, kv_len: int) -> list[Part]:
    """Lower a term given by a table of blocks; each tile gathers the key blocks of its row."""
    layout = term.layout
    assert isinstance(layout, BoundRandomBlocks | BlockTable)
    block = layout.block
    height = -(-block // -(-block // MAX_ROWS))
    starts = (q % block % height == 0).nonzero().flatten()
    if not starts.numel() or starts[0] != 0:
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), starts])
    rows = torch.cat([starts[1:], torch.tensor([q.numel()])]) - starts
    block_row = torch.div(q[starts], block, rounding_mode="floor")
    tile, column = _table_pairs(layout, block_row, -(-kv_len // block))

    # A pair of a tile and a key block: fully visible, not visible, or to be evaluated.
    q_first = q[starts][tile]
    q_last = q_first + rows[tile] - 1
    k_first = column * block
    k_last = (k_first + block - 1).clamp(max=kv_len - 1)
    low_first, high_first = term.bounds(q_first, kv_len)
    low_last, high_last = term.bounds(q_last, kv_len)
    keep = (low_first <= k_last) & (high_last >= k_first)
    exact = (k_last - k_first < block - 1) | (low_last > k_first) | (high_first < k_last)
    if term.rest or term.columns or term.dilation > 1:
        exact |= True
    for other in earlier:
        exact |= _may_overlap(other, q_first, q_last, k_first, k_last, kv_len)
    tile, column, exact, k_first = tile[keep], column[keep], exact[keep], k_first[keep]
    key = k_first[:, None] + torch.arange(block)
    row = torch.arange(int(rows.max()) if rows.numel() else 0)
    masks = (row < rows[tile][:, None])[:, :, None] & (key < kv_len)[:, None, :]
    if exact.any() and not term.dynamic:
        position = (q[starts][:, None] + row)[tile[exact]]
        inside = key[exact].clamp(max=kv_len - 1)
        masks[exact] &= _evaluate(without(term, earlier), position, inside, kv_len)
    seen = masks.flatten(1).any(1)
    tile, column, masks = tile[seen], column[seen], masks[seen]
    dynamic = without(term, earlier) if term.dynamic else None
    return _gathered_parts(term, starts, rows, tile, column, masks, block, kv_len, dynamic)


def _table_pairs(layout: Pattern, block_row: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Return the (tile, key block) pairs of a table, sorted."""
    if isinstance(layout, BoundRandomBlocks):
        chosen = draw(layout, block_row, columns)
        tile = torch.arange(block_row.numel())[:, None].expand_as(chosen)
        return tile.flatten(), chosen.flatten()
    assert isinstance(layout, BlockTable)
    bits = [[bit == "1" for bit in row[:columns]] for row in layout.table]
    table = torch.tensor(bits, dtype=torch.bool).reshape(len(bits), len(bits[0]) if bits else 0)
    inside = ((block_row >= 0) & (block_row < table.shape[0])).nonzero().flatten()
    found = table[block_row[inside]].nonzero()
    return inside[found[:, 0]], found[:, 1]


def _gathered_parts(
    term: Term,
    starts: Tensor,
    rows: Tensor,
    tile: Tensor,
    column: Tensor,
    masks: Tensor,
    block: int,
    kv_len: int,
    dynamic: Pattern | None,
) -> list[Part]:
    """Make parts whose key list holds the key blocks of one tile after those of another."""
    parts = []
    count = torch.bincount(tile, minlength=starts.numel())
    shapes = torch.stack([rows, count], 1)
    first_pair = count.cumsum(0) - count
    for height, blocks in torch.unique(shapes[count > 0], dim=0).tolist():
        chosen = ((rows == height) & (count == blocks)).nonzero().flatten()
        keys = blocks * block
        for some in chosen.split(max(1, MAX_GATHERED // keys)):
            pair = first_pair[some][:, None] + torch.arange(blocks)
            listed = (column[pair][:, :, None] * block + torch.arange(block)).clamp(max=kv_len - 1)
            mask = masks[pair][:, :, :height].transpose(1, 2).reshape(some.numel(), height, keys)
            tiles = Tiles(
                starts[some],
                torch.full_like(some, height),
                torch.arange(some.numel()) * keys,
                torch.full_like(some, keys),
                torch.zeros_like(some),
                [None],
                1,
            )
            runs = _with_masks(tiles, mask).to_runs()
            parts.append(
                Part("blocks", runs, listed.flatten(), documents=term.documents, dynamic=dynamic)
            )
    return parts
