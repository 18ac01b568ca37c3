"""Labels by themselves: which dimension of a result is which of an input's, written down by hand.

The oracle takes the labels from the rules, as the rewrite does. Sizes are all 4, so that nothing
can be told from them.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pitome_fx.passes import rules  # noqa: F401  (registers every rule)
from pitome_fx.passes.replay.interpreter import Replay
from pitome_fx.passes.tokens.axes import Axis
from pitome_fx.passes.tokens.dims import Dim
from tests.properties.anywhere import captured

WEIGHT, TABLE = torch.randn(4, 4), torch.randn(4, 4)

CASES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    # B, N, C: an axis of the input; b, n, c: a piece of it; *: a new one; 1: none.
    "itself": (lambda x: x, "B N C"),
    "pointwise": (lambda x: x.exp() + 1, "B N C"),
    "names a parameter's dimension": (lambda x: TABLE + x, "B N C"),
    "transposed": (lambda x: x.transpose(0, 2), "C N B"),
    "permuted back": (lambda x: x.permute(2, 0, 1).permute(1, 2, 0), "B N C"),
    "moved": (lambda x: x.movedim(0, -1), "N C B"),
    "layer": (lambda x: F.linear(x, WEIGHT), "B N *"),
    "layer over tokens": (lambda x: F.linear(x.mT, WEIGHT), "B C *"),
    "heads": (lambda x: x.view(4, 4, 2, 2).transpose(1, 2), "B c N c"),
    "heads with the batch": (
        lambda x: x.view(4, 4, 2, 2).transpose(1, 2).reshape(8, 4, 2),
        "Bc N c",
    ),
    "heads and back": (
        lambda x: x.view(4, 4, 2, 2).transpose(1, 2).transpose(1, 2).reshape(4, 4, 4),
        "B N C",
    ),
    "tokens with the batch": (lambda x: x.flatten(0, 1), "BN C"),
    "a grid": (lambda x: x.mT.view(4, 4, 2, 2), "B C n n"),
    "windows": (
        lambda x: x.view(4, 2, 2, 4).permute(1, 0, 2, 3).reshape(8, 2, 4),
        "nB n C",
    ),
    "scores": (lambda x: x @ x.mT, "B N N"),
    "weights and values": (lambda x: (x @ x.mT).softmax(-1) @ x, "B N C"),
    "channels attend": (lambda x: x.mT @ x, "B C C"),
    "einsum": (lambda x: torch.einsum("bnc,bmc->bmn", x, x), "B N N"),
    "summed over tokens": (lambda x: x.sum(1), "B C"),
    "kept when summed": (lambda x: x.mean(1, keepdim=True), "B 1 C"),
    "one token": (lambda x: x[:, 0], "B C"),
    "some tokens": (lambda x: x[:, 1:], "B n C"),
    "cut and joined again": (lambda x: torch.cat([x[:, :1], x[:, 1:]], 1), "B N C"),
    "joined in another order": (lambda x: torch.cat([x[:, 1:], x[:, :1]], 1), "B * C"),
    "joined to others": (lambda x: torch.cat([x, TABLE.expand(4, 4, 4)], 1), "B * C"),
    "stacked": (lambda x: torch.stack([x, x], 1), "B * N C"),
    "expanded": (lambda x: x.mean(1, keepdim=True).expand(4, 4, 4), "B * C"),
    "repeated": (lambda x: x.repeat(1, 2, 1), "B * C"),
    "rolled": (lambda x: x.roll(1, 1), "B * C"),
    "an op without a rule": (lambda x: x.tril(), "* * *"),
    "normalised": (lambda x: F.layer_norm(x, (4,)), "B N C"),
    "ordered by value": (lambda x: x.sort(-1).values, "B N *"),
    "looked up": (lambda x: F.embedding((x > 0).long(), TABLE), "B N C *"),
}


def labelled(f: Callable[..., Tensor], letters: str = "BNC") -> str:
    """The dimensions of f(x, …) in the letters of its inputs, three for each."""
    program = captured(f, [torch.randn(4, 4, 4) for _ in letters[::3]])
    replay = Replay(program.graph, frozenset())
    replay.run(*program.inputs)
    given = program.graph.graph.find_nodes(op="placeholder")
    axes = (dim[0].axis for node in given for dim in replay.labels.dims[node])
    names = dict(zip(axes, letters, strict=True))
    (result,) = program.graph.graph.output_node().all_input_nodes
    return " ".join(_spelled(dim, names) for dim in replay.labels.dims[result])


def _spelled(dim: Dim, letters: dict[Axis, str]) -> str:
    def letter(axis: Axis) -> str:
        if axis in letters:
            return letters[axis]
        return letters.get(axis.within(), letters.get(axis.base or axis, "*")).lower()

    return "".join(letter(atom.axis) for atom in dim) or "1"


@pytest.mark.parametrize("name", CASES)
def test_dimensions_are_known_by_where_they_come_from(name: str) -> None:
    f, wanted = CASES[name]
    assert labelled(f) == wanted


def test_two_inputs_of_one_shape_have_no_axis_in_common() -> None:
    assert labelled(lambda x, y: x @ y.mT, "BNCDEF") == "B N E"
    assert labelled(lambda x, y: torch.cat([x, y], 1), "BNCDEF") == "B * C"
