"""What a merge compares tokens by, and which of them are padding."""

from __future__ import annotations

import torch
from torch import Tensor

from pitome_fx.ops import emit
from pitome_fx.passes.detect.detection import Block
from pitome_fx.passes.detect.mask import Mask, MaskUse, is_masking
from pitome_fx.passes.replay.align import with_batch
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.tokens.dims import Atom, Dim, TokenTensor
from pitome_fx.passes.tokens.moves import permute, reshape, rows_of
from pitome_fx.passes.tokens.sizes import product
from pitome_fx.passes.tokens.spaces import TokenSpace


def mean_keys(keys: TokenTensor, block: Block) -> Tensor:
    """Keys averaged over heads, (B, N, D), in at least float32 (PiToMe's metric)."""
    atoms = [atom for dim in keys.dims for atom in dim]
    token = atoms.index(keys.dims[block.site.token_place][0])
    axes = [atom.axis for atom in atoms]
    batch = [axes.index(axis) for axis in block.batch]
    features = [atoms.index(atom) for atom in keys.dims[block.site.feature_place]]
    heads = [i for i in range(len(atoms)) if i not in (token, *batch, *features)]
    mean = reshape(keys.data, [atom.length for atom in atoms])
    if heads:
        mean = mean.mean(heads, dtype=torch.promote_types(mean.dtype, torch.float32))
    left = [i for i in range(len(atoms)) if i not in heads]
    wanted = [*batch, token, *features]
    mean = permute(mean, [left.index(i) for i in wanted])
    lead = product(atoms[i].length for i in batch)
    width = product(atoms[i].length for i in features)
    return reshape(mean, [lead, atoms[token].length, width])


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
