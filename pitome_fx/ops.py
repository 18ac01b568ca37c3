"""The nodes a rewritten graph is read by: ``torch.ops.pitome.*``.

Registered as CompositeImplicitAutograd, they stay single nodes while the graph is traced and
rewritten, and dissolve into ATen, autograd included, where it is lowered. Shapes: B batch,
N tokens, N' groups, k = N − N' moved tokens, F features. Indices are int64, sizes float32
(float64 for float64 metrics).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.fx.experimental.proxy_tensor import (
    disable_proxy_modes_tracing,
    get_proxy_mode,
    track_tensor_tree,
)

from pitome_fx.algorithms.common import joins, take
from pitome_fx.matching import full_precision, importance, match, weigh

LIBRARY = torch.library.Library("pitome", "DEF")


def combine(x: Tensor, kept: Tensor, moved: Tensor, own: Tensor, mix: Tensor) -> Tensor:
    """own·x_kept + mix·x_moved: x (B, N, F) → (B, N', F); half types are summed in float32.

    A value that is not finite stays in the groups in which it has weight.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    with full_precision(x):
        own, mix = own.to(wide), mix.to(wide)
        values = take(x, moved).to(wide)
        finite = torch.where(values.isfinite(), values, 0)
        merged = torch.baddbmm(take(x, kept).to(wide) * own.unsqueeze(-1), mix, finite)
        # 0 where all is finite, and what is not wherever it has weight.
        counts = (mix != 0).to(wide)
        beyond = counts @ (values - finite).detach().nan_to_num(0, 1, -1)
        lost = counts @ values.isnan().to(wide)
        merged = merged + torch.where(beyond == 0, 0, beyond * torch.inf)
        return torch.where(lost > 0, torch.nan, merged).to(x.dtype)


def merge_size(size: Tensor, kept: Tensor, moved: Tensor, target: Tensor) -> Tensor:
    """Sizes (B, N') of the groups that tokens of sizes (B, N) form; their sum is unchanged."""
    joining = joins(kept.shape[1], target) * size.gather(1, moved).unsqueeze(1)
    return size.gather(1, kept) + joining.sum(-1)


def merge(x: Tensor, size: Tensor, kept: Tensor, moved: Tensor, target: Tensor) -> Tensor:
    """Size-weighted mean of each group: x (B, N, F) → (B, N', F).

    A group of one keeps its value exactly. Half types are averaged in float32. A value that is not
    finite stays in its group, though the product with the one-hot shares would spread it.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    with full_precision(x):
        weight = size.to(wide)
        moving = weight.gather(1, moved)
        joining = joins(kept.shape[1], target) * moving.unsqueeze(1)
        total = weight.gather(1, kept) + joining.sum(-1)
        share = joining / total.unsqueeze(-1)
        own = 1 - share.sum(-1, keepdim=True)
        values = take(x, moved).to(wide)
        finite = torch.where(values.isfinite(), values, 0)
        merged = torch.baddbmm(take(x, kept).to(wide) * own, share, finite)
        # Scaled like the rest, though infinity does not show it: its gradient does.
        excess = (values - finite) * (moving / total.gather(1, target)).unsqueeze(-1)
        return merged.scatter_add(1, target.unsqueeze(-1).expand_as(excess), excess).to(x.dtype)


def assignment(kept: Tensor, moved: Tensor, target: Tensor) -> Tensor:
    """The group of each token, (B, N) with values in [0, N')."""
    batch, groups = kept.shape
    index = torch.cat([kept, moved], 1)
    group = torch.arange(groups, device=kept.device).expand(batch, -1)
    return torch.empty_like(index).scatter(1, index, torch.cat([group, target], 1))


def unmerge(x: Tensor, assign: Tensor) -> Tensor:
    """Copy each group's value to its members: x (B, N', F), assign (B, N) → (B, N, F)."""
    return take(x, assign)


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Entries ``index`` (B, M) of x along its tokens: (B, N) → (B, M), (B, N, F) → (B, M, F)."""
    return x.gather(1, index) if x.dim() == 2 else take(x, index)


def _highest(values: Tensor, index: Tensor, groups: int) -> Tensor:
    """The highest member of each group, (B, N, F) → (B, N', F), without gradient; 0 if infinite."""
    lowest = values.new_full((values.shape[0], groups, values.shape[2]), -torch.inf)
    peak = lowest.scatter_reduce(1, index, values.detach(), "amax", include_self=True)
    return torch.where(peak.isfinite(), peak, 0)


def project(x: Tensor, assign: Tensor, size: Tensor) -> Tensor:
    """Plain mean over the members of each group: x (B, N, F) → (B, N', F).

    Found as one member plus the mean distance from it, so that the mean of equal values is exactly
    that value, up to the largest float.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    index = assign.unsqueeze(-1).expand_as(x)
    values = x.to(wide)
    member = _highest(values, index, size.shape[1])
    share = take(1 / size.unsqueeze(-1).to(wide), assign)
    distance = values * share - take(member, assign) * share
    total = torch.zeros_like(member).scatter_add(1, index, distance)
    return (member + total).to(x.dtype)


def group_logsumexp(bias: Tensor, assign: Tensor, size: Tensor) -> Tensor:
    """log Σ exp over the members of each group: bias (B, N, F) → (B, N', F).

    What a merged key must be given as attention bias, so that it draws the attention that its
    members would have drawn together. A group of −∞ alone stays −∞, and its gradient is 0 unless
    what comes back is NaN.
    """
    wide = torch.promote_types(bias.dtype, torch.float32)
    index = assign.unsqueeze(-1).expand_as(bias)
    values = bias.to(wide)
    peak = _highest(values, index, size.shape[1])
    terms = torch.exp(values - peak.gather(1, index))
    total = torch.zeros_like(peak).scatter_add(1, index, terms)
    empty = total == 0
    # Added rather than chosen: a NaN that comes back by way of −∞ must not get lost.
    log_total = (total + empty.to(wide)).log() + torch.where(empty, -torch.inf, 0)
    return (log_total + peak).to(bias.dtype)


def _match_shape(
    metric: Tensor,
    size: Tensor,
    padding: Tensor | None,
    algorithm: str,
    k: int,
    *rest: object,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens = metric.shape[:2]
    kept = metric.new_empty((batch, tokens - k), dtype=torch.int64)
    moved = metric.new_empty((batch, k), dtype=torch.int64)
    return kept, moved, torch.empty_like(moved)


def _weigh_shape(
    kept: Tensor, moved: Tensor, target: Tensor, metric: Tensor, *rest: object
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(metric.dtype, torch.float32)
    own = metric.new_empty(kept.shape, dtype=wide)
    return own, own.new_empty((*kept.shape, moved.shape[1]))


def _combine_shape(x: Tensor, kept: Tensor, moved: Tensor, own: Tensor, mix: Tensor) -> Tensor:
    return x.new_empty((*kept.shape, x.shape[2]))


def _importance_shape(
    queries: Tensor, keys: Tensor, size: Tensor, padding: Tensor | None, front: int
) -> Tensor:
    wide = torch.promote_types(keys.dtype, torch.float32)
    return keys.new_empty((keys.shape[0], keys.shape[2]), dtype=wide)


def _merge_size_shape(size: Tensor, kept: Tensor, moved: Tensor, target: Tensor) -> Tensor:
    return size.new_empty(kept.shape)


def _merge_shape(x: Tensor, size: Tensor, kept: Tensor, moved: Tensor, target: Tensor) -> Tensor:
    return x.new_empty((*kept.shape, x.shape[2]))


def _assignment_shape(kept: Tensor, moved: Tensor, target: Tensor) -> Tensor:
    return kept.new_empty((kept.shape[0], kept.shape[1] + moved.shape[1]))


def _unmerge_shape(x: Tensor, assign: Tensor) -> Tensor:
    return x.new_empty((*assign.shape, x.shape[2]))


def _pick_shape(x: Tensor, index: Tensor) -> Tensor:
    return x.new_empty((*index.shape, *x.shape[2:]))


def _group_shape(x: Tensor, assign: Tensor, size: Tensor) -> Tensor:
    return x.new_empty((*size.shape, x.shape[2]))


class Op(NamedTuple):
    """One pitome op.

    Attributes:
        body: what it computes, in ATen.
        shape: empty results for its arguments.
        schema: its arguments and results.
        costly: it multiplies matrices, so that its FLOPs count.
    """

    body: Callable[..., Any]
    shape: Callable[..., Any]
    schema: str
    costly: bool = False

    @property
    def overload(self) -> torch._ops.OpOverload:
        """As it is called in a graph."""
        found: torch._ops.OpOverload = getattr(torch.ops.pitome, self.body.__name__).default
        return found


_DECIDING = (
    "Tensor metric, Tensor size, Tensor? padding, str algorithm, SymInt k, SymInt front,"
    ' SymInt back, SymInt block=0, SymInt blocks=1, str parameters="{}", Tensor? hidden=None,'
    " Tensor? queries=None, Tensor? keys=None, Tensor? importance=None, Tensor? position=None"
)

OPS = {
    op.body.__name__: op
    for op in (
        Op(
            match,
            _match_shape,
            f"({_DECIDING}) -> (Tensor, Tensor, Tensor)",
            costly=True,
        ),
        Op(
            weigh,
            _weigh_shape,
            f"(Tensor kept, Tensor moved, Tensor target, {_DECIDING}) -> (Tensor, Tensor)",
            costly=True,
        ),
        Op(
            combine,
            _combine_shape,
            "(Tensor x, Tensor kept, Tensor moved, Tensor own, Tensor mix) -> Tensor",
            costly=True,
        ),
        Op(
            importance,
            _importance_shape,
            "(Tensor queries, Tensor keys, Tensor size, Tensor? padding, int front) -> Tensor",
            costly=True,
        ),
        Op(
            merge_size,
            _merge_size_shape,
            "(Tensor size, Tensor kept, Tensor moved, Tensor target) -> Tensor",
        ),
        Op(
            merge,
            _merge_shape,
            "(Tensor x, Tensor size, Tensor kept, Tensor moved, Tensor target) -> Tensor",
            costly=True,
        ),
        Op(assignment, _assignment_shape, "(Tensor kept, Tensor moved, Tensor target) -> Tensor"),
        Op(unmerge, _unmerge_shape, "(Tensor x, Tensor assign) -> Tensor"),
        Op(pick, _pick_shape, "(Tensor x, Tensor index) -> Tensor"),
        Op(project, _group_shape, "(Tensor x, Tensor assign, Tensor size) -> Tensor"),
        Op(group_logsumexp, _group_shape, "(Tensor bias, Tensor assign, Tensor size) -> Tensor"),
    )
}
"""Every op by its name."""

for _name, _op in OPS.items():
    LIBRARY.define(_name + _op.schema, tags=torch.Tag.pt2_compliant_tag)
    LIBRARY.impl(_name, _op.body, "CompositeImplicitAutograd")


def _without_guards(args: Any) -> AbstractContextManager[None]:
    """Symbolic shapes are computed, not decided on: the node is right also where k is 0 or 1."""
    fake_mode = detect_fake_mode(args)
    shape_env = None if fake_mode is None else fake_mode.shape_env
    return nullcontext() if shape_env is None else shape_env.suppress_guards()


def emit(name: str, *args: Any) -> Any:
    """Call a pitome op; while a graph is traced, add its node without tracing through its body.

    The tracer would run the body of some fifty ATen ops only to learn the shape of its result.
    """
    op = OPS[name].overload
    mode = get_proxy_mode()
    if mode is None:
        return op(*args)
    tracer: Any = mode.tracer
    proxies = pytree.tree_map(tracer.unwrap_proxy, args)
    proxy = tracer.create_proxy("call_function", op, proxies, {}, name=name)
    with _without_guards(args):
        with disable_proxy_modes_tracing():
            value = OPS[name].shape(*args)
        return track_tensor_tree(value, proxy, constant=None, tracer=tracer)


def is_pitome_op(target: Any) -> bool:
    """Is it one of the ops a rewrite inserts?"""
    return isinstance(target, torch._ops.OpOverload) and target.namespace == "pitome"
