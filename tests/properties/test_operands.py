"""Whose dimensions a result has, and whose values: derived from the ops themselves.

Every op that acts element by element is called with operands of unlike ranks and sizes, and what is
claimed of the result compared with the result. Of every op that has a rule, operands are replaced
one by one, to see which of them count.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Interpreter, Node

import pitome_fx
from pitome_fx.errors import PassError, PitomeWarning
from pitome_fx.passes.aten.families import LENT
from pitome_fx.passes.capture.program import Program
from pitome_fx.passes.rules.pointwise import pointwise
from pitome_fx.passes.tokens import rule as table
from pitome_fx.passes.tokens.dims import TokenTensor
from pitome_fx.passes.tokens.rule import is_tagged_pointwise, registered
from tests.properties.anywhere import Place, tried_anywhere
from tests.properties.test_rules import ALL_CASES, traced
from tests.properties.test_rules_anywhere import PLAIN
from tests.support.blocks import Transformer

aten = torch.ops.aten

SHAPES = [(4, 3, 5), (), (5,), (3, 1), (1, 3, 5), (4, 1, 1), (3, 5)]
SCALARS = {"number": 2, "int": 2, "float": 0.5, "bool": True, "Optional[str]": None}


VALUELESS = {
    aten._assert_tensor_metadata.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}
"""Ops whose result has no values, or whatever lies in memory."""


def tagged() -> Iterator[OpOverload]:
    """Every ATen op that PyTorch says acts element by element."""
    for schema in torch._C._jit_get_all_schemas():
        packet = getattr(torch.ops.aten, schema.name.removeprefix("aten::"), None)
        op = getattr(packet, schema.overload_name or "default", None)
        if schema.name.startswith("aten::") and is_tagged_pointwise(op):
            yield op


def tensors_of(op: OpOverload) -> int:
    """How many tensors an op takes."""
    return sum("Tensor" in str(argument.type) for argument in op._schema.arguments)


MEETING = {
    op.name(): op
    for op in (*tagged(), *(op for op, rule in registered().items() if rule is pointwise))
    if tensors_of(op) > 1
}


def call(op: OpOverload, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> tuple[Any, Any]:
    """Positional and keyword arguments of an op: tensors, and numbers where it needs some."""
    args, kwargs, left = [], {}, iter(shapes)
    for argument in op._schema.arguments:
        kind = str(argument.type)
        if "Tensor" in kind:
            value: Any = (2 * torch.rand(next(left), dtype=torch.float64) + 1).to(dtype)
        elif argument.has_default_value():
            continue
        else:
            value = SCALARS[kind]
        if argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    return args, kwargs


def called(op: OpOverload, args: Any, kwargs: Any) -> Program:
    """A program of one call, whose inputs are its tensors."""
    graph, mode = Graph(), FakeTensorMode()

    def placeholder(x: Tensor) -> Node:
        node = graph.placeholder(f"input_{len(graph.nodes)}")
        node.meta["val"] = mode.from_tensor(x)
        return node

    nodes, named = pytree.tree_map_only(Tensor, placeholder, (tuple(args), kwargs))
    node = graph.call_function(op, nodes, named)
    fakes = tuple(n.meta["val"] for n in graph.nodes if n.op == "placeholder")
    with mode:
        node.meta["val"] = op(
            *pytree.tree_map_only(Node, lambda n: n.meta["val"], nodes),
            **pytree.tree_map_only(Node, lambda n: n.meta["val"], named),
        )
    graph.output(node)
    return Program(
        graph=GraphModule({}, graph),
        inputs=fakes,
        given=fakes,
        parameters={},
        constants=frozenset(),
        fake_mode=mode,
        writes=(),
    )


@pytest.mark.parametrize("name", MEETING)
def test_result_has_the_dimensions_claimed(name: str) -> None:
    """For tensors of unlike ranks, and with each of them merged along its longest dimension."""
    op = MEETING[name]
    count, generator, runs = tensors_of(op), torch.Generator().manual_seed(0), 0
    for i in range(len(SHAPES)):
        shapes = [SHAPES[(i + 3 * n) % len(SHAPES)] for n in range(count)]
        for dtype in (torch.float64, torch.int64, torch.bool):
            args, kwargs = call(op, shapes, dtype)
            try:
                op(*args, **kwargs)
                break
            except (RuntimeError, NotImplementedError):
                continue
        else:
            continue
        runs += 1
        flat, spec = pytree.tree_flatten((args, kwargs))
        tensors = [x for x in flat if isinstance(x, Tensor)]
        at = [
            Place(which, max(range(x.dim()), key=lambda d, x=x: x.shape[d]), None)
            for which, x in enumerate(tensors)
            if x.numel() > 1
        ]

        def f(*given: Tensor, flat: list[Any] = flat, spec: Any = spec) -> Any:
            feed = iter(given)
            leaves = [next(feed) if isinstance(x, Tensor) else x for x in flat]
            args, kwargs = pytree.tree_unflatten(leaves, spec)
            return op(*args, **kwargs)

        for tried in tried_anywhere(called(op, args, kwargs), f, tensors, at, generator):
            assert not tried.problem, f"{shapes}, {tried.place}: {tried.problem}"
    assert runs


class Sensitive(Interpreter):
    """Notes for every op which of its tensors lent to it, and which did count."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.counts: dict[tuple[OpOverload, str], bool] = {}

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(target, OpOverload):
            names = [argument.name for argument in target._schema.arguments]
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            for name, value in given.items():
                if any(isinstance(x, Tensor) for x in pytree.tree_leaves(value)):
                    known = self.counts.get((target, name), False)
                    self.counts[target, name] = known or _counts(target, given, name)
        return super().call_function(target, args, kwargs)


def _counts(op: OpOverload, given: dict[str, Any], name: str) -> bool:
    """Does some other value of an argument change the result, the others as they are or ones?"""
    for base in (given, pytree.tree_map_only(Tensor, torch.ones_like, given)):
        same = _result(op, base, name)
        for change in (_another, torch.zeros_like, _halves, _not_a_number):
            other = {**base, name: pytree.tree_map_only(Tensor, change, base[name])}
            result = _result(op, other, name)
            if result is None or same is None or not _all_equal(result, same):
                return True
    return False


def _result(op: OpOverload, given: dict[str, Any], name: str) -> list[Any] | None:
    """What the op returns, drawn from one seed; None where it raises."""
    left = dict(given)
    names = [argument.name for argument in op._schema.arguments]
    positional = [left.pop(n) for n in names[: names.index(name) + 1] if n in left]
    torch.manual_seed(0)
    try:
        return pytree.tree_leaves(op(*positional, **left))
    except (IndexError, RuntimeError):
        return None


def _all_equal(one: list[Any], other: list[Any]) -> bool:
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, Tensor)]
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)


def _halves(x: Tensor) -> Tensor:
    return torch.full_like(x, 0.5)


def _not_a_number(x: Tensor) -> Tensor:
    has_nan = x.is_floating_point() or x.is_complex()
    return torch.full_like(x, torch.nan) if has_nan else torch.zeros_like(x)


def _another(x: Tensor) -> Tensor:
    if x.dtype == torch.bool:
        return ~x
    return x.flip(tuple(range(x.dim()))) + (torch.rand_like(x) if x.is_floating_point() else 0)


def test_lent_operands_are_those_whose_values_do_not_count() -> None:
    """The table of what lends says so of all that lends, and of nothing else."""
    counts: dict[tuple[OpOverload, str], bool] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in ALL_CASES.values():
            shapes = [PLAIN.shape(letters) for letters in ("BNC", *case.operands)]
            watched = Sensitive(traced(case, PLAIN).graph)
            watched.run(*(torch.randn(shape, dtype=torch.float64) for shape in shapes))
            for key, does in watched.counts.items():
                counts[key] = counts.get(key, False) or does
    lend = {(op, name) for (op, name), does in counts.items() if not does}
    found = {key for key in lend if key[0] not in VALUELESS}
    listed = {key for key in LENT.items() if key[0] not in VALUELESS}
    assert found == listed, found ^ listed


WRONG_LABELS: dict[str, Callable[[Any], Any]] = {
    "without the first": lambda dims: dims[1:],
    "without the last": lambda dims: dims[:-1],
    "another's dimensions": lambda dims: (dims[-1], *dims[1:]),
}


@pytest.mark.parametrize("claim", WRONG_LABELS)
def test_a_wrong_label_is_an_error(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass ends with the op's name, and a compiled model runs dense and says so."""

    def wrong(step: Any, x: TokenTensor, *args: Any, **kwargs: Any) -> TokenTensor:
        return TokenTensor(step(x, *args, **kwargs), WRONG_LABELS[claim](x.dims))

    monkeypatch.setitem(table._RULES, aten.gelu.default, wrong)
    model: nn.Module = Transformer().eval()
    x = torch.randn(2, 24, 24)
    with pytest.raises(PassError, match=r"aten.gelu.default.*LabelError"):
        pitome_fx.transform(model, (x,), ratio=0.5)
    compiled = torch.compile(model, backend="pitome", options={"lowering": "eager", "ratio": 0.5})
    with torch.no_grad(), pytest.warns(PitomeWarning, match="LabelError"):
        torch.testing.assert_close(compiled(x), model(x))
