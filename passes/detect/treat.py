"""Judges every operand that is not simply averaged over the members of a group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from torch.fx import Graph, Node

from pitome_fx.passes.aten.families import SDPA
from pitome_fx.passes.aten.nodes import is_float, is_tensor
from pitome_fx.passes.detect.biases import exact_biases
from pitome_fx.passes.detect.mask import Mask, MaskKind
from pitome_fx.passes.detect.masks import Masks
from pitome_fx.passes.detect.products import arguments
from pitome_fx.passes.detect.sites import Site
from pitome_fx.passes.replay.treatment import MEAN, How, Treatment, Treatments

DIFFERING = (MaskKind.CAUSAL, MaskKind.STRUCTURED)
STRUCTURED = "a mask that shows different keys to the queries of a group"


def treat(graph: Graph, sites: Sequence[Site], masks: Masks, padding: Iterable[Mask]) -> Treatments:
    """Judge all operands that are not simply averaged.

    Args:
        padding: the masks by which merges tell padding.
    """
    paddings = {mask.node: masks.dataflow.number(mask.node) for mask in padding}
    hiding = _structured(sites, masks)
    biases = exact_biases(sites, masks)
    numbers = frozenset(paddings.values())
    found: dict[tuple[Node, Node], Treatment] = {}
    for consumer, operand in _edges(graph):
        own = MEAN
        if _is_mask_of_sdpa(consumer, operand):
            own = _mask_of_sdpa(operand, masks)
        elif (consumer, operand) in biases:
            own = Treatment(How.WEIGHT, until_summed=biases[consumer, operand])
        elif not is_float(operand):
            own = _member(operand, masks, numbers)
        if operand in hiding:
            own = replace(own, refusal=STRUCTURED)
        if own != MEAN:
            found[consumer, operand] = own
    return Treatments(found, kinds=paddings)


def _edges(graph: Graph) -> Iterator[tuple[Node, Node]]:
    for consumer in graph.nodes:
        for operand in consumer.all_input_nodes:
            if is_tensor(operand):
                yield consumer, operand


def _structured(sites: Sequence[Site], masks: Masks) -> frozenset[Node]:
    """The masks that show different keys to different queries."""
    found = (mask for site in sites for mask in site.masks if masks.kind_of(mask) in DIFFERING)
    return frozenset(mask.node for mask in found)


def _is_mask_of_sdpa(consumer: Node, operand: Node) -> bool:
    return consumer.target == SDPA and arguments(consumer).get("attn_mask") is operand


def _mask_of_sdpa(mask: Node, masks: Masks) -> Treatment:
    kind = masks.kind(mask)
    return Treatment(
        How.NOTHING if kind is MaskKind.NONE else How.WEIGHT,
        masks.dataflow.number(mask),
        one_row=not masks.differs_between_queries(mask),
        learned=masks.is_learned(mask),
        refusal=STRUCTURED if kind in DIFFERING else "",
    )


def _member(operand: Node, masks: Masks, paddings: frozenset[int]) -> Treatment:
    """What has no mean may be the padding itself."""
    number = masks.dataflow.number(operand)
    if number not in paddings:
        return MEAN
    return Treatment(How.MEMBER, number, one_row=not masks.differs_between_queries(operand))
