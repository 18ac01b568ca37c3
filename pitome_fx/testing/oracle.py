"""The simulator: a dense graph with ``x = lift(merge(x))`` spliced in. It uses no token rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from pitome_fx.algorithms import ALGORITHMS, Tokens
from pitome_fx.groups import count, first_members, mean_over_groups, sizes
from pitome_fx.passes.aten.operands import value_operands
from pitome_fx.passes.capture.functional import RUN_AS
from pitome_fx.passes.capture.subclasses import is_called_otherwise, run_as_called
from pitome_fx.passes.detect.mask import MaskUse
from pitome_fx.passes.pipeline import Outcome
from pitome_fx.passes.replay.events import ProjectEvent
from pitome_fx.passes.rewrite.rewriting import Merge
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Dim
from pitome_fx.passes.tokens.spaces import JoinedSpace, MergedSpace, TokenSpace, WindowSpace
from pitome_fx.testing.combined import Combined, attention_paid, combined_in_groups
from pitome_fx.testing.rows import rows_around

SDPA = torch.ops.aten.scaled_dot_product_attention.default
SYM_SIZE = torch.ops.aten.sym_size.int


class Simulator(Interpreter):
    """The dense graph with ``lift(merge(x))`` spliced in."""

    def __init__(self, outcome: Outcome, assignments: Sequence[Tensor] | None) -> None:
        super().__init__(outcome.program.graph, garbage_collect_values=False)
        self.outcome = outcome
        self.given = assignments
        self.groups: list[Tensor] = []
        self.representatives: dict[int, Tensor] = {}
        self.lengths: dict[Axis, int] = {}
        rewritten = outcome.rewritten
        self.merges = (
            {} if rewritten is None else {m.planned.block.point: m for m in rewritten.merges}
        )
        self.projections: dict[tuple[Node, Node], list[ProjectEvent]] = {}
        self.unweighted: dict[Node, Dim] = {}
        if rewritten is not None:
            for event in rewritten.projections:
                assert event.operand is not None
                self.projections.setdefault((event.node, event.operand), []).append(event)
            self.unweighted = {event.node: event.keys for event in rewritten.unweighted}

    def run_node(self, n: Node) -> Any:
        if n.op == "call_function" and (
            n in self.unweighted or self._is_projected(n) or is_called_otherwise(n)
        ):
            value = self._run_spliced(n)
        else:
            value = super().run_node(n)
        self._learn_lengths(n, value)
        merge = self.merges.get(n)
        return value if merge is None else self._merge(merge, value)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().call_function(RUN_AS.get(target, target), args, kwargs)

    def _learn_lengths(self, node: Node, value: Any) -> None:
        """Note the actual length of every axis; its own may be symbolic."""
        dims = self.outcome.detection.labels.dims.get(node)
        if isinstance(value, Tensor) and isinstance(dims, tuple):
            for dim, size in zip(dims, value.shape, strict=True):
                unknown = [atom.axis for atom in dim if not self._is_known(atom.axis)]
                if len(unknown) == 1:
                    known = [self._length(a.axis) for a in dim if a.axis is not unknown[0]]
                    self.lengths[unknown[0]] = size // math.prod(known)

    def _is_known(self, axis: Axis) -> bool:
        return isinstance(axis.size, int) or axis in self.lengths

    def _length(self, axis: Axis) -> int:
        return axis.size if isinstance(axis.size, int) else self.lengths[axis]

    def _is_projected(self, node: Node) -> bool:
        return any((node, operand) in self.projections for operand in node.all_input_nodes)

    def _run_spliced(self, node: Node) -> Any:
        def operand(source: Node) -> Any:
            value = self.env[source]
            for event in self.projections.get((node, source), ()):
                value = self._projected(event, value)
            return value

        spliced: Any = torch.fx.node.map_arg((node.args, dict(node.kwargs)), operand)
        args, kwargs = spliced[0], dict(spliced[1])
        if node in self.unweighted:
            args, kwargs = self._unweighted(node, list(args), kwargs)
        return run_as_called(node, tuple(args), kwargs)

    def _groups_of(self, space: TokenSpace) -> Tensor:
        """The group (B, N) of every dense token in a state, numbered from 0."""
        if isinstance(space, WindowSpace):
            whole, axis = self._groups_of(space.whole), space.axis
            size = whole.shape[1]
            first, last = axis.start.within(size), axis.stop.within(size)
            return whole[:, first:last] - int(axis.start.within(count(whole)))
        if isinstance(space, JoinedSpace):
            return self._joined(space)
        assert isinstance(space, MergedSpace)
        return self.groups[space.index]

    def _joined(self, space: JoinedSpace) -> Tensor:
        pieces: list[Tensor] = []
        offset = 0
        batch, device = self.groups[0].shape[0], self.groups[0].device
        for size, part in space.parts:
            if part is None:
                own = torch.arange(int(size), device=device).expand(batch, -1)
            else:
                own = self._groups_of(part)
            pieces.append(own + offset)
            offset += count(own)
        return torch.cat(pieces, 1)

    def _merge(self, merge: Merge, value: Tensor) -> Tensor:
        """x = lift(merge(x)) at a merge point."""
        block, parent = merge.planned.block, merge.space.parent
        dims = self.outcome.detection.labels.dims[block.point]
        rows, back = rows_around(value, dims, block.token_place, merge.space, self._length)
        tokens = rows.shape[1]
        before = torch.arange(tokens, device=rows.device).expand(rows.shape[0], -1)
        if parent is not None:
            before = self._groups_of(parent)
        if self.given is not None:
            after = self.given[len(self.groups)]
            combined = getattr(self.given, "combined", {}).get(len(self.groups))
            weighed = ALGORITHMS[self.outcome.options.algorithm].weights is not None
            assert weighed == (combined is not None), "replayed without the weights of its groups"
        else:
            after, combined = self._decide(merge, rows, before)
        self.groups.append(after)
        if combined is None:
            return back(mean_over_groups(rows, after))
        return back(combined_in_groups(rows, before, after, combined))

    def _decide(self, merge: Merge, rows: Tensor, before: Tensor) -> tuple[Tensor, Combined | None]:
        """Who merges with whom, decided on the first member of every present group."""
        options, front, back = self.outcome.options, merge.space.front, merge.space.back
        algorithm, first = ALGORITHMS[options.algorithm], first_members(before)
        tokens = self._tokens(merge, rows, before)
        found = algorithm.match(tokens, **options.algorithm_options)
        count = first.shape[1]
        place = torch.arange(count, device=rows.device).expand(rows.shape[0], -1)
        kept = torch.cat([place[:, :front], found.kept + front, place[:, count - back :]], 1)
        group = torch.full_like(first, -1)
        group.scatter_(1, kept, place[:, : kept.shape[1]])
        group.scatter_(1, found.moved + front, found.target + front)
        combined = None
        if algorithm.weights is not None:
            weights = algorithm.weights(tokens, found, **options.algorithm_options)
            combined = Combined.of(weights, found, front, back, kept)
        present = self._representatives(merge.space.parent, before)
        self.representatives[merge.space.index] = present.gather(1, kept)
        return group.gather(1, before), combined

    def _representatives(self, space: TokenSpace | None, groups: Tensor) -> Tensor:
        """One token of every group (B, N'): the one that its merge kept."""
        if isinstance(space, MergedSpace):
            return self.representatives[space.index]
        return first_members(groups)

    def _tokens(self, merge: Merge, rows: Tensor, before: Tensor) -> Tokens:
        """What the algorithm sees: the first member of every present group, if unprotected."""
        options, front, back = self.outcome.options, merge.space.front, merge.space.back
        needs = ALGORITHMS[options.algorithm].needs
        first = first_members(before)
        inner = slice(front, first.shape[1] - back)

        def of_groups(x: Tensor) -> Tensor:
            """(B, N, F) → (B, N', F)."""
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            return wide.gather(1, first.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

        def of_heads(x: Tensor) -> Tensor:
            """(B, N, H, D) → (B, H, N', D)."""
            return of_groups(x.flatten(2)).unflatten(2, x.shape[2:]).transpose(1, 2)

        size = sizes(before)
        padding = self._padding(merge).gather(1, first) if merge.padding else None
        metric = rows if options.metric == "hidden" else self._keys(merge).mean(2)
        queries = keys = important = None
        if needs.intersection({"queries", "keys", "importance"}):
            queries, keys = of_heads(self._queries(merge)), of_heads(self._keys(merge))
        if queries is not None and keys is not None and "importance" in needs:
            important = attention_paid(queries, keys, size, padding, front)[:, inner]
        metric = of_groups(metric)[:, inner]
        return Tokens(
            metric=metric,
            size=size.to(metric.dtype)[:, inner],
            padding=None if padding is None else padding[:, inner],
            k=self._removed(merge, before),
            block=merge.planned.index,
            blocks=merge.planned.total,
            hidden=of_groups(rows)[:, inner] if "hidden" in needs else None,
            queries=queries[:, :, inner] if queries is not None else None,
            keys=keys[:, :, inner] if keys is not None else None,
            importance=important,
            position=self._representatives(merge.space.parent, before)[:, inner] - front,
        )

    def _removed(self, merge: Merge, present: Tensor) -> int:
        """How many of the present groups (B, N) the plan removes."""
        first: TokenSpace = merge.space
        while isinstance(first, MergedSpace) and first.parent is not None:
            first = first.parent
        # An axis that is joined of merged tokens begins with fewer of them than it is long.
        merged = isinstance(first, MergedSpace)
        tokens = present.shape[1] if merged else count(self._groups_of(first))
        before, after = merge.planned.counts(tokens)
        return int(before - after)

    def _keys(self, merge: Merge) -> Tensor:
        """Keys of the site, (B, N, H, D)."""
        site = merge.planned.block.site
        return self._by_head(site.keys, (site.token_place, site.feature_place), merge)

    def _queries(self, merge: Merge) -> Tensor:
        """Queries of the site, (B, N, H, D)."""
        site = merge.planned.block.site
        assert site.query_places is not None
        return self._by_head(site.query, site.query_places, merge)

    def _by_head(self, node: Node, places: tuple[int, int], merge: Merge) -> Tensor:
        value: Tensor = self.env[node]
        dims = self.outcome.detection.labels.dims[node]
        wide = torch.promote_types(value.dtype, torch.float32)
        token, feature = places
        last = value.movedim(feature, -1)
        order = [d for i, d in enumerate(dims) if i != feature]
        token -= feature < token
        rows, _ = rows_around(last, (*order, dims[feature]), token, merge.space, self._length)
        return rows.unflatten(2, (-1, value.shape[feature])).to(wide)

    def _padding(self, merge: Merge) -> Tensor:
        """Which dense tokens (B, N) the site's masks hide from every query."""
        batch = math.prod(self._length(axis) for axis in merge.space.batch)
        hidden = []
        for mask in merge.padding:
            row = self._seen(mask.rows(self.env[mask.node]), mask.use)[..., 0, :]
            if row.numel() == row.shape[-1]:
                hidden.append(~row.reshape(1, -1).expand(batch, -1))
            else:
                hidden.append(~row.reshape(batch, -1, row.shape[-1])[:, 0])
        return torch.stack(hidden).any(0)

    @staticmethod
    def _seen(mask: Tensor, use: MaskUse) -> Tensor:
        """Where a mask shows a key, as bools in its own shape."""
        if use is MaskUse.SCALES:
            return mask != 0
        if mask.dtype == torch.bool:
            return ~mask if use is MaskUse.FILLS else mask
        highest = mask.max(-1, keepdim=True).values
        return (mask - highest.masked_fill(highest == -torch.inf, 0)) >= -1000

    def _projected(self, event: ProjectEvent, value: Tensor) -> Tensor:
        """x = lift(mean(x)) on one edge."""
        self._check_independent(event, value)
        missing = len(event.dims) - value.dim()
        present = [1] * missing + list(value.shape)
        shape = [
            math.prod(self._length(atom.axis) for atom in dim) if size == 1 else size
            for dim, size in zip(event.dims, present, strict=True)
        ]
        value = value.expand(shape)
        dims = [*event.dims]
        # A table for all tokens may name as one what is a product of axes here.
        dims[event.dim] = event.target
        for atom in event.target:
            if atom.space is not None:
                rows, back = rows_around(
                    value, dims, event.dim, atom.space, self._length, atom.axis
                )
                value = back(mean_over_groups(rows, self._groups_of(atom.space)))
        return value

    def _check_independent(self, event: ProjectEvent, value: Tensor) -> None:
        """A projected value may not depend on merged tokens, unless it still is one of them."""
        upstream: set[Node] = set()
        stack = [event.operand]
        while stack:
            node = stack.pop()
            if node is not None and node not in upstream:
                upstream.add(node)
                # How many tokens there are says nothing of their values.
                stack += [] if node.target is SYM_SIZE else value_operands(node)
        source = next((a.space for a in event.dims[event.dim] if a.space is not None), None)
        if upstream & set(self.merges):
            assert source is not None, (
                f"{event.operand} depends on merged tokens and is projected at {event.node}"
            )
            rows, _ = rows_around(value, event.dims, event.dim, source, self._length, source.axis)
            means = mean_over_groups(rows, self._groups_of(source))
            finite = rows[rows.isfinite()]
            atol = 1e-4 * finite.abs().max().item() if finite.numel() else 0.0
            # What is not finite, as all that attends to nothing but padding, is equal to itself.
            assert torch.allclose(means, rows, rtol=0, atol=atol, equal_nan=True), (
                f"{event.operand} is projected at {event.node} though it varies within groups"
            )

    def _unweighted(
        self, node: Node, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Subtract log(size) of each key's group from the scores (``proportional=False``)."""
        space = next(a.space for a in self.unweighted[node] if a.space is not None)
        groups = self._groups_of(space)
        log_size = sizes(groups).gather(1, groups).to(args[0].dtype).log()
        # Keys may be the tokens of several items, one after another.
        log_size = log_size.reshape(
            -1, math.prod(self._length(atom.axis) for atom in self.unweighted[node])
        )
        # The batch comes first, perhaps fused with the heads.
        log_size = log_size.repeat_interleave(args[0].shape[0] // log_size.shape[0], 0)
        bias = -log_size.reshape(log_size.shape[0], *[1] * (args[0].dim() - 2), -1)
        if node.target != SDPA:
            args[0] = args[0] + bias
            return args, kwargs
        mask = args[3] if len(args) > 3 else kwargs.pop("attn_mask", None)
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, -torch.inf)
        args[3:4] = [bias if mask is None else mask + bias]
        return args, kwargs
