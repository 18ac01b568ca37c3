"""Detect: which attention sites may merge, where, and which tokens are protected.

Every site gets a verdict: a block to merge in, or a reason a user can act on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from pitome_fx.passes import rules  # noqa: F401  (registers every token rule)
from pitome_fx.passes.axes import Axis, Dim, dense_length, same_size
from pitome_fx.passes.capture import Program
from pitome_fx.passes.functional import aliases
from pitome_fx.passes.masks import Mask, MaskKind, Masks
from pitome_fx.passes.protect import protected_tokens
from pitome_fx.passes.replay import Labels, Replay
from pitome_fx.passes.sites import Site, find_sites, module_path
from pitome_fx.passes.stream import Refusal, merge_point, reachable

aten = torch.ops.aten

CROSS = (
    "cross-attention: queries and keys are different tokens; "
    "only self-attention says which tokens are alike"
)
JOINT = (
    "joint attention: tokens of several residual streams attend together, "
    "and no stream carries them all"
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
    masks: Masks
    constant: frozenset[Node]
    sites: tuple[Site, ...]
    blocks: tuple[Block, ...]
    refusals: dict[Site, str]


def detect(program: Program, protect: int | None) -> Detection:
    """Label the program's dimensions and judge its attention sites.

    Args:
        protect: number of leading tokens never to merge; None to find protected tokens.
    """
    masks = Masks(program.parameters, program.constants)
    constant = _constant_nodes(program)
    replay = Replay(program.graph, constant, masks)
    replay.run(*program.inputs)
    labels = replay.labels
    order = {node: i for i, node in enumerate(program.graph.graph.nodes)}
    blocks: list[Block] = []
    refusals: dict[Site, str] = {}
    whole_axes: dict[Dim, Axis] = {}
    sites = find_sites(program.graph, labels)
    for site in sites:
        _look_at_masks(site, masks)
        try:
            block = _block(site, program, labels, masks, constant, order, whole_axes, protect)
            blocks.append(block)
        except Refusal as refusal:
            refusals[site] = str(refusal)
    return Detection(labels, masks, constant, tuple(sites), tuple(blocks), refusals)


def _constant_nodes(program: Program) -> frozenset[Node]:
    """Nodes that depend on parameters, buffers and constants alone."""
    constant: set[Node] = set()
    for node in program.graph.graph.nodes:
        known = node in program.constants or node.op == "get_attr"
        computed = node.op == "call_function" and all(n in constant for n in node.all_input_nodes)
        if known or computed:
            constant.add(node)
    return frozenset(constant)


def _block(
    site: Site,
    program: Program,
    labels: Labels,
    masks: Masks,
    constant: frozenset[Node],
    order: dict[Node, int],
    whole_axes: dict[Dim, Axis],
    protect: int | None,
) -> Block:
    if site.oddity:
        raise Refusal(site.oddity)
    tokens = site.query_dim
    if not tokens and not site.key_dim:
        raise Refusal("too few tokens: a single one attends to itself")
    if tokens != site.key_dim:
        raise Refusal(JOINT if _join_the_same(tokens, site.key_dim) else CROSS)
    lead = labels.dims[site.query][:-2]
    padding = _padding(site, masks, fused_heads=len(lead) == 1 and len(lead[0]) > 1)
    after = reachable([site.node], order, forward=True)
    before = reachable([site.query, site.keys], order, forward=False)
    point = merge_point(site, tokens, labels, after, before, order)
    _refuse_writes(program, point, tokens, labels, order)
    _refuse_strides(program, point, order)
    dims: tuple[Dim, ...] = labels.dims[point]
    place = dims.index(tokens)
    if tokens not in whole_axes:
        single = tokens[0].axis if len(tokens) == 1 else Axis(dense_length(tokens))
        whole_axes[tokens] = single
    axis = whole_axes[tokens]
    front, back = protected_tokens(axis, labels, constant, protect)
    batch = _batch_axes(dims, place, labels.dims[site.query], site, labels)
    key_axes = {atom.axis for dim in labels.dims[site.keys] for atom in dim}
    if not key_axes.issuperset(batch):
        raise Refusal(CROSS)
    if any(batch_axis.weak for batch_axis in batch):
        raise Refusal("its tokens are the same for every item so far (learned latents or queries)")
    return Block(site, point, place, axis, batch, front, back, padding)


def _join_the_same(queries: Dim, keys: Dim) -> bool:
    """Are both concatenations of the same streams, made one by one?"""
    parts = [[part for atom in dim for part, _ in atom.axis.parts] for dim in (queries, keys)]
    return bool(parts[0]) and parts[0] == parts[1]


def _look_at_masks(site: Site, masks: Masks) -> None:
    """Answer now what the rewrite will ask: masks are evaluated outside of any tracing."""
    for mask in site.masks:
        masks.kind(mask.node, mask.use)
        masks.differs_between_queries(mask.node)
        masks.is_learned(mask.node)


def _padding(site: Site, masks: Masks, *, fused_heads: bool) -> tuple[Mask, ...]:
    """The padding masks of a site; refuses masks under which merging would be wrong."""
    if site.is_causal:
        raise Refusal("causal attention: a merged token would see its own future")
    found: list[Mask] = []
    for mask in site.masks:
        kind = masks.kind(mask.node, mask.use)
        if kind is MaskKind.CAUSAL:
            raise Refusal("causal attention mask: a merged token would see its own future")
        if kind is MaskKind.STRUCTURED:
            raise Refusal(
                "structured attention mask: which keys a query sees differs between queries, "
                "and that cannot be shown to survive merging"
            )
        part = masks.padding_part(mask, fused_heads)
        if part is not None:
            found.append(part)
    return tuple(found)


def _refuse_writes(
    program: Program, point: Node, tokens: Dim, labels: Labels, order: dict[Node, int]
) -> None:
    """No merge may come before a write into a token tensor: it would go to an unmerged copy."""
    after = reachable([point], order, forward=True) if program.writes else set()
    for write in program.writes:
        touched = {*write.all_input_nodes, *aliases(write, order)}
        if any(node in after and _carries(labels, node, tokens) for node in touched):
            where = module_path(write) or "the graph"
            raise Refusal(
                f"an in-place write ({write.target}) in {where} aliases a token tensor and "
                "would be lost on merged tokens; write out of place there"
            )


def _refuse_strides(program: Program, point: Node, order: dict[Node, int]) -> None:
    """No merge may come before a walk through memory that is not the operand's alone."""
    strided = program.graph.graph.find_nodes(op="call_function", target=aten.as_strided.default)
    after = reachable([point], order, forward=True) if strided else set()
    for node in strided:
        operand = node.args[0].meta["val"]
        own = operand.numel() * operand.element_size()
        if node in after and not same_size(operand.untyped_storage().nbytes(), own):
            raise Refusal(
                f"as_strided in {module_path(node) or 'the graph'} reads beyond the tensor that it "
                "is given, and merged tokens lie elsewhere; make it contiguous, or use unfold"
            )


def _carries(labels: Labels, node: Node, tokens: Dim) -> bool:
    """Has the node's value these tokens, or some of them, along a dimension?"""
    axes = {atom.axis for atom in tokens}
    dims = labels.dims.get(node)
    return isinstance(dims, tuple) and any(
        atom.axis in axes or atom.axis.base in axes for dim in dims for atom in dim
    )


def _batch_axes(
    dims: tuple[Dim, ...], place: int, attended: tuple[Dim, ...], site: Site, labels: Labels
) -> tuple[Axis, ...]:
    """Axes of the stream, apart from tokens and features, that the attention carries too."""
    features = {atom.axis for atom in labels.dims[site.keys][site.feature_place]}
    carried = {atom.axis for dim in attended for atom in dim} - features
    others = [dim for d, dim in enumerate(dims) if d != place]
    batch = tuple(atom.axis for dim in others for atom in dim if atom.axis in carried)
    unshared = [dim for dim in others if any(atom.axis not in carried for atom in dim)]
    if len(unshared) > 1:
        raise Refusal(
            "the batch dimension of the residual stream cannot be followed into the attention"
        )
    return batch
