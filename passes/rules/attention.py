"""Scaled dot product attention over merged queries and keys: proportional attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pitome_fx.passes.aten.families import SDPA
from pitome_fx.passes.replay.align import align, align_along, keeps_apart, meet, with_batch
from pitome_fx.passes.replay.apart import batch_axes, keep_items_apart
from pitome_fx.passes.replay.step import Step
from pitome_fx.passes.replay.treatment import MEAN, How, Treatment
from pitome_fx.passes.rules.normalise import is_blank
from pitome_fx.passes.tokens.dims import Dim, TokenTensor, is_merged, is_single
from pitome_fx.passes.tokens.moves import logsumexp_keys, pick, project, spread
from pitome_fx.passes.tokens.rule import Lift, rule


@rule(SDPA)
def attention(
    step: Step,
    q: TokenTensor,
    k: TokenTensor,
    v: TokenTensor,
    attn_mask: TokenTensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> TokenTensor:
    """softmax(q·kᵀ·scale + bias)·v, bias being log Σ exp of the mask over each key's group.

    Without a mask that is log(size), proportional attention (ToMe, Eq. 1).
    """
    if not any(x is not None and x.merged for x in (q, k, v, attn_mask)):
        dims = (*_lead(q, k, v), q.dims[-2], v.dims[-1])
        return TokenTensor(step(q, k, v, attn_mask, dropout_p, is_causal, **kwargs), dims)
    if is_causal:
        raise Lift("causal attention depends on the order of tokens")
    if any(is_merged(dim) for dim in (q.dims[-1], k.dims[-1], v.dims[-1])):
        raise Lift("attention over channels mixes tokens")
    keep_items_apart(q, [-1], k, v)
    keep_items_apart(k, [-1], q, v)
    k, v = align_along(step, k, v, -2)
    (q, k, v), lead = align(step, [q, k, v], trailing=2)
    _keep_frames_apart(q, k, v, attn_mask, lead)
    bias, blank = _bias(step, q, k, attn_mask, (*lead, q.dims[-2], k.dims[-2]))
    if blank is not None:
        # Zero, but with the gradient that a score gets in the dense model.
        q = replace(q, data=torch.where(blank, q.data - q.data.detach(), q.data))
    value = step(q, k, v, bias, dropout_p, False, **kwargs)
    return TokenTensor(value, (*lead, q.dims[-2], v.dims[-1]))


def _keep_frames_apart(
    q: TokenTensor, k: TokenTensor, v: TokenTensor, mask: TokenTensor | None, lead: tuple[Dim, ...]
) -> None:
    """Tokens of several items, each with its own groups, may attend together, side by side.

    They may not where the items are told apart at the same time: by a leading dimension, or by
    a mask of its own for each query. Nor may the items attend for each group by itself: group g
    of one and group g of another are different tokens.
    """
    batch = batch_axes([q, k, v])
    rows = mask is not None and len(mask.dims) > 1 and not is_single(mask.dims[-2])
    leading = [atom for dim in lead for atom in dim]
    for tokens in (q.dims[-2], k.dims[-2]):
        together = batch.intersection(atom.axis for atom in tokens)
        apart = any(
            atom.axis in together or (atom.space and together.intersection(atom.space.batch))
            for atom in leading
        )
        if together and (apart or rows):
            raise Lift("the op mixes the items of a batch, and each has its own groups")


def _lead(*operands: TokenTensor) -> tuple[Dim, ...]:
    """Leading dimensions where none of the operands is merged."""
    rank = max(len(x.dims) for x in operands)
    return tuple(meet([x.dims[d] for x in operands if len(x.dims) >= -d]) for d in range(-rank, -2))


def _bias(
    step: Step, q: TokenTensor, k: TokenTensor, mask: TokenTensor | None, scores: tuple[Dim, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """What to add to the merged scores, whose dimensions are ``scores``, and which rows are blank.

    A blank row sees all keys alike, because its mask is so low that it leaves nothing of a score.
    """
    log_size = _log_size(k, scores)
    waived = not step.is_proportional
    if waived and log_size is not None:
        step.note_unweighted(scores[-1])
    shown = None if waived else log_size
    treatment = MEAN if mask is None else step.treatment(mask)
    if mask is None or treatment.how is How.NOTHING:
        return None if shown is None else shown.type_as(q.data), None
    if mask.origin is None or (mask.tainted and not _is_on_dense_keys(mask, scores)):
        raise Lift("the attention mask is computed from merged tokens")
    mask = _query_rows(step, mask, treatment, scores)
    if log_size is None:
        return mask.data, None
    if mask.data.dtype == torch.bool and keeps_apart(scores[-1], treatment.kinds):
        return _group_mask(mask, scores, shown).type_as(q.data), None
    wide = torch.promote_types(q.data.dtype, torch.float32)
    merged, peak = _group_bias(mask, scores, wide)
    blank = None if treatment.learned else is_blank(peak)
    if shown is None:
        # A mask that leaves nothing of a score leaves nothing of log(size) either.
        merged = merged - (log_size if blank is None else torch.where(blank, 0, log_size))
    return merged.type_as(q.data), blank


def _is_on_dense_keys(mask: TokenTensor, scores: tuple[Dim, ...]) -> bool:
    """Does a mask computed from merged tokens have all keys, for queries merged as they are?"""
    rows = mask.dims[-2] if len(mask.dims) > 1 else ()
    return not is_merged(mask.dims[-1]) and (rows == scores[-2] or not rows)


def _log_size(k: TokenTensor, scores: tuple[Dim, ...]) -> Tensor | None:
    """log(size) of each key's group, shaped to broadcast against the scores."""
    row = (*scores[:-2], (), scores[-1])
    terms = [
        spread(atom.space.size.log(), atom.space, row, (len(row) - 1, a))
        for a, atom in enumerate(scores[-1])
        if atom.space is not None
    ]
    return torch.stack(terms).sum(0) if len(terms) > 1 else next(iter(terms), None)


def _query_rows(
    step: Step, mask: TokenTensor, treatment: Treatment, scores: tuple[Dim, ...]
) -> TokenTensor:
    """The mask with its query axis merged: one row if all are the same, else their mean."""
    if len(mask.dims) < 2:
        return mask
    if treatment.one_row:
        return mask.holding(mask.data.narrow(-2, 0, 1)).named(-2, ())
    if not is_merged(scores[-2]) or mask.dims[-2] == scores[-2]:
        return mask
    if treatment.refusal:
        raise Lift(treatment.refusal)
    if not mask.data.is_floating_point():
        raise Lift("a bool mask that differs between queries")
    target = (*scores[-len(mask.dims) : -1], mask.dims[-1])
    named = with_batch(mask, (*scores[:-1], mask.dims[-1]), [-2], 0)
    step.note_projection(
        named, len(named.dims) - 2, target[-2], "a bias on queries that are merged"
    )
    return project(named, len(named.dims) - 2, target[-2])


def _group_mask(mask: TokenTensor, scores: tuple[Dim, ...], log_size: Tensor | None) -> Tensor:
    """A bool mask whose groups are all padding or all real: log(size), or −∞."""
    space = scores[-1][0].space
    assert space is not None
    target = (*scores[:-2], (), scores[-1])
    named = with_batch(mask, target, [-1], 0)
    kept = pick(named, len(named.dims) - 1, scores[-1]).data
    shown = space.size.new_zeros(()) if log_size is None else log_size
    return torch.where(kept, shown, -torch.inf)


def _group_bias(
    mask: TokenTensor, scores: tuple[Dim, ...], wide: torch.dtype
) -> tuple[Tensor, Tensor]:
    """log Σ exp of a mask or bias over the members of each key group, and what it was shifted by.

    Each row is first shifted by its maximum: softmax does not see it, and the size of groups is
    not lost beside a huge negative number where a whole row is masked.
    """
    target = (*scores[:-2], mask.dims[-2] if len(mask.dims) > 1 else (), scores[-1])
    named = with_batch(mask, target, [-1], 0)
    values = named.data
    if values.dtype == torch.bool:
        values = torch.zeros_like(values, dtype=wide).masked_fill(~values, -torch.inf)
    values = values.to(wide)
    peak = values.detach().amax(-1, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, 0)
    shifted = TokenTensor(values - peak, named.dims)
    return logsumexp_keys(shifted, len(named.dims) - 1, scores[-1]).data, peak
