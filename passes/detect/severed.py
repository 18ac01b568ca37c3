"""Blocks that a graph break cut in two.

Of such a block a graph holds a part, which looks like something else: queries and keys that come in
one by one like cross-attention, a stream that comes in or goes out beside the attention like a
missing residual connection. This tells the true reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from pitome_fx.passes.aten.families import COSTLY
from pitome_fx.passes.aten.nodes import is_float
from pitome_fx.passes.aten.operands import value_operands
from pitome_fx.passes.capture.breaks import Breaks
from pitome_fx.passes.detect.paths import Paths
from pitome_fx.passes.detect.sites import Site
from pitome_fx.passes.tokens.dims import Dim, dense_length, is_single, is_weak
from pitome_fx.passes.tokens.sizes import same_size


@dataclass(frozen=True)
class Severed:
    """Asks of a site whether the rest of its block is in another graph.

    Attributes:
        given: the inputs of the graph that are activations.
    """

    breaks: Breaks
    paths: Paths
    given: frozenset[Node]

    def of_keys(self, site: Site) -> str:
        """Why queries and keys look like different tokens, "" if no break is why."""
        if not self.breaks or not same_size(
            dense_length(site.query_dim), dense_length(site.key_dim)
        ):
            return ""
        sides = ((site.query, site.query_dim), (site.keys, site.key_dim))
        if not any(self._is_given(node, tokens) for node, tokens in sides):
            return ""
        return self._because(
            "its queries and keys come from another graph, and cannot be known to be of the "
            "same tokens here"
        )

    def of_stream(self, site: Site, tokens: Dim) -> str:
        """Why no residual connection was found, "" if no break is why."""
        if not self.breaks:
            return ""
        after, node = {site.node}, site.node
        while node.op != "output":
            node = node.next
            inner = [n for n in value_operands(node) if n in after]
            if not any(self.paths.carries(n, tokens) for n in inner):
                after |= {node} if inner else set()
                continue
            if node.op == "output":
                return self._because("its output leaves the graph before any residual connection")
            if any(self._is_stream(n, node) for n in self.paths.operands(node) if n not in after):
                return self._because(
                    "its residual stream comes in beside the tokens that attend, and cannot be "
                    "known to be the same tokens here"
                )
            after.add(node)
        return ""

    def _because(self, why: str) -> str:
        return (
            f"a graph break inside this block: the graph {self.breaks}, so {why}. Find the break "
            'with TORCH_LOGS="graph_breaks" or fullgraph=True and move it out of the block'
        )

    def _is_given(self, node: Node, tokens: Dim) -> bool:
        """Do the tokens come in as they are, with no layer in between?"""
        stack, seen = [node], {node}
        while stack:
            current = stack.pop()
            if current in self.given:
                return True
            if current.target not in COSTLY:
                sources = [n for n in self.paths.operands(current) if n not in seen]
                sources = [n for n in sources if self.paths.carries(n, tokens)]
                seen.update(sources)
                stack += sources
        return False

    def _is_stream(self, node: Node, join: Node) -> bool:
        """Is it as large as what it meets, and told from it by a name alone?"""
        dims = self.paths.dims(node)
        return (
            is_float(node)
            and len(dims) == len(self.paths.dims(join))
            and not any(is_single(dim) or is_weak(dim) for dim in dims)
        )
