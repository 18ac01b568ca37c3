"""Detect: which attention sites may merge, where, and which tokens are protected.

Every site gets a verdict: a block to merge in, or a reason a user can act on.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch
from torch._functorch.predispatch import _add_batch_dim
from torch.fx import Node

from pitome_fx.passes import rules  # noqa: F401  (registers every token rule)
from pitome_fx.passes.aten.nodes import is_float
from pitome_fx.passes.aten.operands import value_operands
from pitome_fx.passes.capture.functional import written_by
from pitome_fx.passes.capture.program import Program
from pitome_fx.passes.detect.dataflow import Dataflow
from pitome_fx.passes.detect.finder import find_sites
from pitome_fx.passes.detect.mask import Mask, MaskKind
from pitome_fx.passes.detect.masks import Masks
from pitome_fx.passes.detect.paths import Paths
from pitome_fx.passes.detect.protect import protected_tokens
from pitome_fx.passes.detect.severed import Severed
from pitome_fx.passes.detect.sites import Site
from pitome_fx.passes.detect.stream import merge_point, reachable
from pitome_fx.passes.detect.treat import treat
from pitome_fx.passes.detect.unsafe import Refusal, refuse_strides, refuse_writes
from pitome_fx.passes.detect.variation import Variation
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.replay.labels import Labels
from pitome_fx.passes.replay.treatment import Treatments
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Dim, dense_length
from pitome_fx.passes.tokens.sizes import depends_on_values

aten = torch.ops.aten

CROSS = (
    "cross-attention: queries and keys are different tokens; "
    "only self-attention says which tokens are alike"
)
JOINT = (
    "joint attention: tokens of several residual streams attend together, "
    "and no stream carries them all"
)
REGROUPED = (
    "windowed, grid or channel attention: what attends is a part of another dimension, "
    "regrouped, and not the tokens of the residual stream"
)
NO_RESIDUAL = (
    "no residual connection carries these tokens past the attention (attention pooling, "
    "channel attention, or a regrouped token axis), so there is no place to merge"
)
UNKNOWN = (
    "how many tokens there are depends on values of the inputs (nonzero, item, a bool index), "
    "not on their shapes; pad to a number that the shapes give, and mask"
)
VMAPPED = (
    "part of the program runs under torch.vmap (as the mask and score functions of flex_attention "
    "do), whose ops cannot be run again one by one; write it with broadcasting"
)


@dataclass(frozen=True)
class Block:
    """A self-attention site that may merge.

    Attributes:
        site: where it attends.
        point: the node after which tokens are merged (the residual stream's fan-out).
        token_place: the token dimension of that node's value.
        axis: the token axis.
        batch: the axes along which every item merges on its own.
        front, back: protected tokens at either end.
        padding: the masks that hide padding.
    """

    site: Site
    point: Node
    token_place: int
    axis: Axis
    batch: tuple[Axis, ...]
    front: int
    back: int
    padding: tuple[Mask, ...]


@dataclass(frozen=True)
class Detection:
    """What detection found out about a program."""

    labels: Labels
    treatments: Treatments
    constant: frozenset[Node]
    sites: tuple[Site, ...]
    blocks: tuple[Block, ...]
    refusals: dict[Site, str]


def detect(program: Program, protect: int | None) -> Detection:
    """Label the program's dimensions and judge its attention sites.

    Args:
        protect: number of leading tokens never to merge; None to find protected tokens.
    """
    written = written_by(program.writes, program.graph.graph.nodes)
    constant = _constant_nodes(program, written)
    replay = Replay(program.graph, constant)
    replay.run(*program.inputs)
    labels = replay.labels
    dataflow = Dataflow(written, program.literals)
    variation = Variation(replay, dataflow)
    masks = Masks(program.parameters, program.constants, dataflow, variation)
    order = {node: i for i, node in enumerate(program.graph.graph.nodes)}
    blocks: list[Block] = []
    refusals: dict[Site, str] = {}
    whole_axes: dict[Dim, Axis] = {}
    sites = find_sites(replay, masks)
    vmapped = program.graph.graph.find_nodes(op="call_function", target=_add_batch_dim)
    attending = frozenset(site.node for site in sites)
    known = _Known(program, Paths(replay), masks, constant, order, attending)
    for site in sites:
        try:
            if vmapped:
                raise Refusal(VMAPPED)
            blocks.append(_block(site, known, whole_axes, protect))
        except Refusal as refusal:
            refusals[site] = str(refusal)
    padding = (mask for block in blocks for mask in block.padding)
    treatments = treat(program.graph.graph, sites, masks, padding)
    return Detection(labels, treatments, constant, tuple(sites), tuple(blocks), refusals)


def _constant_nodes(program: Program, written: AbstractSet[Node]) -> frozenset[Node]:
    """Nodes that depend on parameters, buffers and constants alone, and are not written later."""
    constant: set[Node] = set()
    for node in program.graph.graph.nodes:
        known = node in program.constants or node.op == "get_attr"
        computed = node.op == "call_function" and all(n in constant for n in value_operands(node))
        if (known or computed) and node not in written:
            constant.add(node)
    return frozenset(constant)


@dataclass(frozen=True)
class _Known:
    """What is asked about a program for every site."""

    program: Program
    paths: Paths
    masks: Masks
    constant: frozenset[Node]
    order: dict[Node, int]
    attending: frozenset[Node]

    @property
    def labels(self) -> Labels:
        return self.paths.labels

    @property
    def severed(self) -> Severed:
        inputs = self.program.graph.graph.find_nodes(op="placeholder")
        given = frozenset(n for n in inputs if is_float(n) and n not in self.constant)
        return Severed(self.program.breaks, self.paths, given)


def _block(site: Site, known: _Known, whole_axes: dict[Dim, Axis], protect: int | None) -> Block:
    labels = known.labels
    if site.oddity:
        raise Refusal(site.oddity)
    tokens = site.query_dim
    if not tokens and not site.key_dim:
        raise Refusal("too few tokens: a single one attends to itself")
    if tokens != site.key_dim or not tokens:
        apart = JOINT if _join_the_same(tokens, site.key_dim) else CROSS
        raise Refusal(known.severed.of_keys(site) or apart)
    sizes = [atom.axis.size for dim in labels.dims[site.query] for atom in dim]
    if any(map(depends_on_values, sizes)):
        raise Refusal(UNKNOWN)
    lead = labels.dims[site.query][:-2]
    padding = _padding(site, known.masks, fused_heads=len(lead) == 1 and len(lead[0]) > 1)
    before = reachable([site.query, site.keys], known.order, forward=False)
    point = merge_point(site, tokens, known.paths, before, known.attending)
    if point is None:
        if any(atom.axis.whole is not None for atom in tokens):
            raise Refusal(REGROUPED)
        # Tokens that are written over have a new name afterwards.
        refuse_writes(known.program, site.node, tokens, labels, known.order)
        raise Refusal(known.severed.of_stream(site, tokens) or NO_RESIDUAL)
    refuse_writes(known.program, point, tokens, labels, known.order)
    refuse_strides(known.program, point, known.order)
    dims: tuple[Dim, ...] = labels.dims[point]
    place = dims.index(tokens)
    if tokens not in whole_axes:
        single = tokens[0].axis if len(tokens) == 1 else Axis(dense_length(tokens))
        whole_axes[tokens] = single
    axis = whole_axes[tokens]
    front, back = protected_tokens(axis, labels, protect)
    batch = _batch_axes(dims, place, site, known)
    key_axes = {atom.axis for dim in labels.dims[site.keys] for atom in dim}
    if not key_axes.issuperset(batch):
        raise Refusal(CROSS)
    if any(batch_axis.weak for batch_axis in batch):
        raise Refusal("its tokens are the same for every item so far (learned latents or queries)")
    return Block(site, point, place, axis, batch, front, back, padding)


def _join_the_same(queries: Dim, keys: Dim) -> bool:
    """Are both concatenations of the same streams, made one by one?"""
    parts = [[part.axes for atom in dim for part in atom.axis.parts] for dim in (queries, keys)]
    return bool(parts[0]) and parts[0] == parts[1]


def _padding(site: Site, masks: Masks, *, fused_heads: bool) -> tuple[Mask, ...]:
    """The padding masks of a site; refuses masks under which merging would be wrong."""
    if site.is_causal:
        raise Refusal("causal attention: a merged token would see its own future")
    # One mask often meets scores twice: two nodes that compute the same count once.
    found: dict[object, Mask] = {}
    for mask in site.masks:
        kind = masks.kind_of(mask)
        if kind is MaskKind.CAUSAL:
            raise Refusal("causal attention mask: a merged token would see its own future")
        if kind is MaskKind.STRUCTURED:
            raise Refusal(
                "structured attention mask: which keys a query sees differs between queries, "
                "and that cannot be shown to survive merging"
            )
        part = masks.padding_part(mask, fused_heads)
        if part is not None:
            number = masks.dataflow.number(part.node)
            found.setdefault((number, part.use, part.scale, part.queries, part.keys), part)
    return tuple(found.values())


def _batch_axes(dims: tuple[Dim, ...], place: int, site: Site, known: _Known) -> tuple[Axis, ...]:
    """Axes of the stream, apart from tokens and features, that the attention carries too."""
    labels = known.labels
    attended = labels.dims[site.query]
    features = {atom.axis for atom in labels.dims[site.keys][site.feature_place]}
    carried = {atom.axis for dim in attended for atom in dim} - features
    others = [dim for d, dim in enumerate(dims) if d != place]
    batch = tuple(atom.axis for dim in others for atom in dim if atom.axis in carried)
    unshared = [dim for dim in others if any(atom.axis not in carried for atom in dim)]
    left = carried - {*batch, *(atom.axis for atom in dims[place])}
    # One dimension that the attention does not know are the channels. Of more (copies of the
    # stream, channels that were split) one may be a batch, unless the attention has no batch left.
    if len(unshared) > 1 and not left <= _channels(known, left):
        raise Refusal(
            "the batch dimension of the residual stream cannot be followed into the attention"
        )
    return batch


def _channels(known: _Known, axes: set[Axis]) -> set[Axis]:
    """Those of the axes that are what a layer yields for each token, or pieces of it (heads)."""
    made = {
        axis
        for (node, _, _), axis in known.labels.axes.items()
        if node.target == aten.linear.default or node in known.constant
    }
    return {axis for axis in axes if axis.within() in made}
