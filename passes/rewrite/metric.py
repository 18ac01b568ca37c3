"""What a merge decides by: what tokens are compared by, what else an algorithm asks, padding."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true, sym_eq

from pitome_fx.algorithms.registry import NEEDS, Need
from pitome_fx.ops import emit
from pitome_fx.passes.detect.detection import Block
from pitome_fx.passes.detect.mask import Mask, MaskUse, is_masking
from pitome_fx.passes.replay.align import with_batch
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.tokens.dims import Atom, Dim, TokenTensor, is_merged
from pitome_fx.passes.tokens.moves import permute, reshape, rows_of
from pitome_fx.passes.tokens.sizes import Size, product
from pitome_fx.passes.tokens.spaces import TokenSpace


def mean_keys(keys: TokenTensor, block: Block) -> Tensor:
    """Keys averaged over heads, (B, N, D), in at least float32 (PiToMe's metric)."""
    split = _split(keys, (block.site.token_place, block.site.feature_place), block)
    mean, heads = split.data, split.heads
    if heads:
        mean = mean.mean(heads, dtype=torch.promote_types(mean.dtype, torch.float32))
    left = [i for i in range(split.data.dim()) if i not in heads]
    wanted = [*split.batch, split.token, *split.features]
    mean = permute(mean, [left.index(i) for i in wanted])
    return reshape(mean, [split.length(split.batch), split.shape[split.token], split.width])


def per_head(value: TokenTensor, places: tuple[int, int], block: Block) -> Tensor:
    """Queries or keys of each head, (B, H, N, D).

    Args:
        places: of the token and the feature dimension.
    """
    split = _split(value, places, block)
    data = permute(split.data, [*split.batch, *split.heads, split.token, *split.features])
    lead, heads = split.length(split.batch), split.length(split.heads)
    return reshape(data, [lead, heads, split.shape[split.token], split.width])


@dataclass(frozen=True)
class _Split:
    """Queries or keys with one dimension for each axis, and which of them are what."""

    data: Tensor
    shape: list[Size]
    batch: list[int]
    heads: list[int]
    token: int
    features: list[int]

    @property
    def width(self) -> Size:
        return self.length(self.features)

    def length(self, places: list[int]) -> Size:
        return product(self.shape[i] for i in places)


def _split(value: TokenTensor, places: tuple[int, int], block: Block) -> _Split:
    atoms = [atom for dim in value.dims for atom in dim]
    token = atoms.index(value.dims[places[0]][0])
    axes = [atom.axis for atom in atoms]
    batch = [axes.index(axis) for axis in block.batch]
    features = [atoms.index(atom) for atom in value.dims[places[1]]]
    heads = [i for i in range(len(atoms)) if i not in (token, *batch, *features)]
    shape = [atom.length for atom in atoms]
    return _Split(reshape(value.data, shape), shape, batch, heads, token, features)


def asked_for(
    replay: Replay,
    block: Block,
    needs: Collection[Need],
    state: State,
) -> tuple[Tensor | None, ...] | str:
    """What an algorithm needs, in the order of ``NEEDS``; or why there is not all of it."""
    found: dict[Need, Tensor] = {}
    if "hidden" in needs:
        found["hidden"] = state.rows
    if "position" in needs:
        found["position"] = _positions(state)
    if {"queries", "keys", "importance"}.intersection(needs):
        heads = _queries_and_keys(replay, block, state)
        if isinstance(heads, str):
            return heads
        queries, keys = heads
        found["queries"], found["keys"] = queries, keys
        if "importance" in needs:
            how = (state.size, state.padding, state.front)
            found["importance"] = emit("importance", queries, keys, *how)
    return tuple(found.get(need) if need in needs else None for need in NEEDS)


@dataclass(frozen=True)
class State:
    """Tokens that are about to merge.

    Attributes:
        rows: (B, N, F) values of the stream.
        keys: as the site has them, their tokens named like the stream's.
        size: (B, N).
        padding: (B, N) bool or None.
        front: how many tokens are protected at the front.
        parent: the state that they are in, None if dense.
    """

    rows: Tensor
    keys: TokenTensor
    size: Tensor
    padding: Tensor | None
    front: int
    parent: TokenSpace | None


def _positions(state: State) -> Tensor:
    if state.parent is not None:
        return state.parent.representative
    tokens = torch.arange(state.rows.shape[1], device=state.rows.device)
    return tokens.expand(state.rows.shape[0], -1)


def _queries_and_keys(replay: Replay, block: Block, state: State) -> tuple[Tensor, Tensor] | str:
    """Queries and keys of each head, (B, H, N, D) and (B, G, N, D); or why not."""
    site = block.site
    lacking = "its queries cannot be told by head, which the algorithm needs"
    if site.query_places is None:
        return lacking
    queries = replay.env[site.query]
    place = site.query_places[0]
    if state.parent is None and not is_merged(queries.dims[place]):
        queries = queries.named(place, (Atom(block.axis),))
    if queries.dims[place] != state.keys.dims[site.token_place]:
        return lacking
    for value in (queries, state.keys):
        axes = {atom.axis for dim in value.dims for atom in dim}
        if not axes.issuperset(block.batch):
            return lacking
    own = per_head(queries, site.query_places, block)
    keys = per_head(state.keys, (site.token_place, site.feature_place), block)
    fits = statically_known_true(sym_eq(own.shape[3], keys.shape[3]))
    if not fits or not statically_known_true(own.shape[1] % keys.shape[1] == 0):
        return lacking
    return own, keys


def padding_masks(replay: Replay, block: Block) -> tuple[Mask, ...]:
    """The block's padding masks, but for those computed from merged tokens."""
    values = ((mask, replay.env[mask.node]) for mask in block.padding)
    return tuple(mask for mask, value in values if not value.merged and not value.tainted)


def present_padding(
    replay: Replay, block: Block, masks: tuple[Mask, ...], parent: TokenSpace | None
) -> Tensor | None:
    """Which present tokens are padding, (B, N) bool; None if no mask says so.

    Earlier merges may have known the padding by another mask, or have known of none: of a group
    its representative is asked.
    """
    if not masks:
        return None
    hidden = [_hidden_keys(replay, block, mask) for mask in masks]
    padding = hidden[0] if len(hidden) == 1 else torch.stack(hidden).any(0)
    return padding if parent is None else emit("pick", padding, parent.representative)


def kept_apart(
    replay: Replay, masks: tuple[Mask, ...], parent: TokenSpace | None
) -> frozenset[int]:
    """Value numbers of the padding masks that this merge and those before it keep apart.

    Of two masks at once a group may hold a token that one hides and a token that the other hides.
    """
    if len(masks) != 1:
        return frozenset()
    numbers = frozenset({replay.treatments.kinds[masks[0].node]})
    return numbers if parent is None else numbers & parent.kinds


def _hidden_keys(replay: Replay, block: Block, mask: Mask) -> Tensor:
    """Which dense tokens the mask hides, (B, N) bool."""
    value = replay.env[mask.node]
    row = mask.rows(value.data).narrow(-2, 0, 1)
    if mask.use is MaskUse.KEEPS:
        hidden = is_masking(row)
    else:
        hidden = row if mask.use is MaskUse.FILLS else row == 0
    dims = (*mask.lead(value.dims), (), (Atom(block.axis),))
    lead = _lead(replay, block, mask)
    if len(lead) == 1 and len(dims) == 4:
        # The mask before its heads were fused with the batch.
        of_batch = tuple(atom for atom in lead[0] if atom.axis in block.batch)
        lead = (of_batch, tuple(atom for atom in lead[0] if atom not in of_batch))
    return _rows(TokenTensor(hidden, dims), lead, block)


def _lead(replay: Replay, block: Block, mask: Mask) -> tuple[Dim, ...]:
    """Leading dimensions of the scores where the padding meets them.

    Their sum may be named after the mask: then those of the scores themselves.
    """
    consumer = mask.consumer
    named = [replay.labels.dims[node] for node in (consumer, *consumer.all_input_nodes)]
    for dims in named:
        axes = {atom.axis for dim in dims for atom in dim} if isinstance(dims, tuple) else set()
        if len(dims) == len(named[0]) and axes.issuperset(block.batch):
            return mask.lead(dims)
    return mask.lead(named[0])


def _rows(hidden: TokenTensor, lead: tuple[Dim, ...], block: Block) -> Tensor:
    """A key mask (…, 1, N), the same for every head, as (B, N); ``lead``: what it meets."""
    named = with_batch(hidden, (*lead, (), hidden.dims[-1]), [-1], 0, block.batch)
    rows = rows_of(named, (len(named.dims) - 1, 0), block.batch)
    return rows.data[..., 0]
