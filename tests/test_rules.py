"""Every token rule against the law, in eager: lift(rule(merged)) = op(lift(merged)).

A case is a function of x (B, N, C), which is merged along N with the first token protected, and
of further operands. It says whether the rule carries merged tokens through or lifts, and which
of the further operands are merged along (then the law speaks of their means over groups).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from pitome_fx.passes import rules  # noqa: F401  (registers every rule)
from pitome_fx.passes.axes import Atom, TokenTensor
from pitome_fx.passes.capture import capture
from pitome_fx.passes.masks import Masks
from pitome_fx.passes.replay import Replay
from pitome_fx.passes.rule import registered, rule_for
from pitome_fx.passes.spaces import merged_space

B, N, C = 2, 12, 6
ALONG = torch.Size([B, N, C])


@dataclass(frozen=True)
class Case:
    """``carried``: the result is still merged (else the op was lifted, or reduced the tokens)."""

    f: Callable[..., Any]
    operands: tuple[tuple[int, ...], ...] = ()
    carried: bool = True
    lifts: bool = False
    projected: tuple[int, ...] = ()


def reduces(f: Callable[..., Any], **kwargs: Any) -> Case:
    """The op sums tokens up: nothing merged remains, and nothing had to be lifted."""
    return Case(f, carried=False, **kwargs)


def lifted(f: Callable[..., Any], **kwargs: Any) -> Case:
    """The op needs every token."""
    return Case(f, carried=False, lifts=True, **kwargs)


def heads(x: Tensor) -> Tensor:
    return x.view(B, -1, 2, C // 2).transpose(1, 2)


def asserting_dtype(x: Tensor) -> Tensor:
    torch.ops.aten._assert_tensor_metadata.default(x, dtype=torch.float64)
    return x * 2


def sdpa(x: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    q = heads(x)
    out = F.scaled_dot_product_attention(q, q * 0.5, q + 1, mask, **kwargs)
    return out.transpose(1, 2).reshape(B, N, C)


POINTWISE = {
    "relu": Case(lambda x: F.relu(x)),
    "gelu": Case(lambda x: F.gelu(x, approximate="tanh")),
    "scale and shift": Case(lambda x, a: x * a + 1, ((C,),)),
    "add per token": Case(torch.add, ((B, N, C),), projected=(0,)),
    "add positions": Case(torch.add, ((1, N, C),), projected=(0,)),
    "add positions without batch": Case(torch.add, ((N, C),), projected=(0,)),
    "multiply by a token mask": Case(torch.mul, ((B, N, 1),), projected=(0,)),
    "per batch item": Case(torch.add, ((B, 1, C),)),
    "where": Case(lambda x: torch.where(x > 0, x, -x)),
    "hardswish": Case(lambda x: F.hardswish(x)),
    "prelu": Case(lambda x, w: F.prelu(x, w), ((1,),)),
    "prelu per token": lifted(lambda x, w: F.prelu(x, w), operands=((N,),)),
    "masked_fill": Case(lambda x: x.masked_fill(x > 0, 0.5)),
    "clamp": Case(lambda x: x.clamp(-1, 1)),
    "dtype": Case(lambda x: x.to(torch.float32).double()),
    "contiguous": Case(lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)),
    "zeros_like": Case(lambda x: torch.zeros_like(x) + x),
    "new tensor of dense size": Case(lambda x: x + x.new_ones((B, 1, C))),
    "metadata assert": Case(asserting_dtype),
    "bool per token": lifted(lambda x, m: x.masked_fill(m > 0, 0.0), operands=((B, N, 1),)),
}

SHAPE = {
    "split heads": Case(lambda x: heads(x).transpose(1, 2).reshape(B, N, C)),
    "qkv": Case(lambda x: x.reshape(B, N, 3, 2).permute(2, 0, 1, 3).unbind(0)[1]),
    "flatten batch and tokens": Case(lambda x: x.reshape(B * N, C).relu().reshape(B, N, C)),
    "tokens first": Case(lambda x: x.transpose(0, 1).reshape(N * B, C).view(N, B, C)),
    "unsqueeze": Case(lambda x: x.unsqueeze(1).squeeze(1)),
    "unflatten": Case(lambda x: x.unflatten(2, (2, 3)).flatten(2)),
    "expand": Case(lambda x: x.unsqueeze(2).expand(B, N, 3, C)),
    "expand_as": Case(lambda x: x[:, :, :1].expand_as(x)),
    "repeat channels": Case(lambda x: x.repeat(1, 1, 2)),
    "reshape_as": Case(
        lambda x: heads(x).transpose(1, 2).reshape_as(x) + x.flatten(0, 1).view_as(x)
    ),
    "repeat each channel": Case(lambda x: x.repeat_interleave(2, -1)),
    "complex": Case(
        lambda x: torch.view_as_real(torch.view_as_complex(x.view(B, N, 3, 2)) * 2j).flatten(2)
    ),
    "movedim": Case(lambda x: x.movedim(1, 2)),
    "repeat tokens": lifted(lambda x: x.repeat(1, 2, 1)),
    "repeat each token": lifted(lambda x: x.repeat_interleave(2, 1)),
    "grid": lifted(lambda x: x.transpose(1, 2).reshape(B, C, 3, 4)),
}

SLICE = {
    "first token": reduces(lambda x: x[:, 0]),
    "drop the first": Case(lambda x: x[:, 1:]),
    "keep the first": reduces(lambda x: x[:, :1]),
    "apart and together": Case(lambda x: torch.cat([x[:, :1] * 2, x[:, 1:] + 1], 1)),
    "split sizes": Case(lambda x: torch.cat(x.split_with_sizes([1, N - 1], 1), 1)),
    "chunk channels": Case(lambda x: torch.cat(x.chunk(2, -1)[::-1], -1)),
    "select a channel": Case(lambda x: x[..., 2]),
    "narrow": Case(lambda x: x.narrow(1, 1, N - 1)),
    "glu": Case(lambda x: F.glu(x)),
    "glu over tokens": lifted(lambda x: F.glu(x, 1)),
    "tenth token": lifted(lambda x: x[:, 9]),
    "every second": lifted(lambda x: x[:, ::2]),
    "halves": lifted(lambda x: x.chunk(2, 1)[0]),
    "unbind tokens": lifted(lambda x: x.unbind(1)[3]),
}

JOIN = {
    "prepend": Case(lambda x, t: torch.cat([t, x], 1), ((B, 2, C),)),
    "append and sum": reduces(lambda x, t: torch.cat([x, t], 1).sum(1), operands=((B, 2, C),)),
    "cat channels": Case(lambda x, y: torch.cat([x, y], 2), ((B, N, 2),), projected=(0,)),
    "stack": Case(lambda x: torch.stack([x, x * 2]).sum(0)),
}

REDUCE = {
    "mean": reduces(lambda x: x.mean(1)),
    "mean of the rest": reduces(lambda x: x[:, 1:].mean(1)),
    "mean of everything": reduces(lambda x: x.mean()),
    "sum": reduces(lambda x: x.sum(1, keepdim=True)),
    "sum of complex": reduces(lambda x: torch.view_as_real(torch.complex(x, 2 * x).sum(1))),
    "sum channels": Case(lambda x: x.sum(-1)),
    "amax": reduces(lambda x: x.amax(1)),
    "any": reduces(lambda x: (x > 1).any(1)),
    "maximum of everything": reduces(lambda x: x.max()),
    "logsumexp": reduces(lambda x: x.logsumexp(1)),
    "max channels": Case(lambda x: x.max(-1).values),
    "var channels": Case(lambda x: x.var(-1, keepdim=True)),
    "norm channels": Case(lambda x: F.normalize(x, dim=-1)),
    "cumsum channels": Case(lambda x: x.cumsum(-1)),
    "topk channels": Case(lambda x: x.topk(2, -1).values),
    "var": lifted(lambda x: x.var(1)),
    "max with index": lifted(lambda x: x.max(1).values),
    "cumsum": lifted(lambda x: x.cumsum(1)),
    "sort": lifted(lambda x: x.sort(1).values),
    "roll": lifted(lambda x: x.roll(1, 1)),
    "flip": lifted(lambda x: x.flip(1)),
    "mean over batch": lifted(lambda x: x.mean(0)),
}

NORMALISE = {
    "softmax": Case(lambda x: x.softmax(1)),
    "log_softmax": Case(lambda x: x.log_softmax(1)),
    "softmax channels": Case(lambda x: x.softmax(-1)),
    "layer norm": Case(lambda x, w: F.layer_norm(x, (C,), w), ((C,),)),
    "rms norm": Case(lambda x, w: F.rms_norm(x, (C,), w), ((C,),)),
    "native layer norm": Case(lambda x: torch.native_layer_norm(x, (C,), None, None, 1e-5)[0]),
    "layer norm over tokens": lifted(lambda x: F.layer_norm(x, (N, C))),
    "group norm": lifted(lambda x: F.group_norm(x.transpose(1, 2), 2)),
    "batch norm eval": Case(
        lambda x, m, v: F.batch_norm(x.transpose(1, 2), m, v.exp()), ((C,), (C,))
    ),
    "batch norm train": lifted(
        lambda x: F.batch_norm(x.transpose(1, 2), None, None, training=True)
    ),
}

CONTRACT = {
    "linear": Case(F.linear, ((5, C), (5,))),
    "matmul": Case(torch.matmul, ((C, 4),)),
    "scores": Case(lambda x: x @ x.transpose(1, 2)),
    "bmm over tokens": reduces(lambda x: torch.bmm(x.transpose(1, 2), x)),
    "linear attention": Case(lambda x: x @ (x.softmax(1).transpose(1, 2) @ x)),
    "baddbmm": Case(lambda x, b: torch.baddbmm(b, x, x.mT), ((1, N, N),), projected=(0,)),
    "einsum scores": Case(lambda x: torch.einsum("bnc,bmc->bnm", x, x)),
    "einsum over tokens": reduces(lambda x: torch.einsum("bnc,bnd->bcd", x, x)),
    "einsum with an ellipsis": Case(lambda x: torch.einsum("...id,...jd->...ij", x, x)),
    "einsum heads": Case(
        lambda x: torch.einsum("bnhd,hde->bnhe", x.view(B, N, 2, 3), torch.ones(2, 3, 2).double())
    ),
    "conv of width 1": Case(lambda x, w: F.conv1d(x.transpose(1, 2), w), ((4, C, 1),)),
    "token mixing": lifted(lambda x, w: F.linear(x.transpose(1, 2), w), operands=((N, N),)),
    "conv": lifted(lambda x, w: F.conv1d(x.transpose(1, 2), w, padding=1), operands=((4, C, 3),)),
}

ATTENTION = {
    "sdpa": Case(lambda x: sdpa(x)),
    "sdpa scale": Case(lambda x: sdpa(x, scale=0.3)),
    "sdpa causal": lifted(lambda x: sdpa(x, is_causal=True)),
    "queries elsewhere": reduces(
        lambda x, q: F.scaled_dot_product_attention(q, x, x), operands=((B, 5, C),)
    ),
    "keys elsewhere": Case(lambda x, k: F.scaled_dot_product_attention(x, k, k), ((B, 5, C),)),
    "spelled out": Case(lambda x: (x @ x.mT).softmax(-1) @ x),
}

INDEX = {
    "channels by index": Case(lambda x: x.index_select(2, torch.tensor([3, 1]))),
    "embedding of a token's rank": reduces(
        lambda x, w: F.embedding((x.sum(1) > 0).long(), w), operands=((2, 3),)
    ),
    "gather": lifted(lambda x: x.gather(1, x.argsort(1))),
    "tokens by index": lifted(lambda x: x.index_select(1, torch.tensor([3, 1]))),
    "fft": lifted(lambda x: torch.fft.fft(x, dim=1).real),
}

CASES = POINTWISE | SHAPE | SLICE | JOIN | REDUCE | NORMALISE | CONTRACT | ATTENTION | INDEX


@pytest.mark.parametrize("name", CASES)
def test_rule_keeps_the_law(name: str) -> None:
    case = CASES[name]
    x = torch.randn(ALONG, dtype=torch.float64)
    operands = [torch.randn(shape, dtype=torch.float64) for shape in case.operands]
    groups = random_groups()
    values = group_mean(x, groups)
    expected = case.f(
        values,
        *(along(y, groups) if i in case.projected else y for i, y in enumerate(operands)),
    )
    replay, result = replay_merged(case, x, operands, groups)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    assert result.dtype == expected.dtype
    lifts = [event for event in replay.lifts if event.node.op != "output"]
    assert bool(lifts) is case.lifts, [event.why for event in lifts]
    assert any(event.node.op == "output" for event in replay.lifts) is case.carried
    assert len({event.operand for event in replay.projections}) == len(case.projected)


def random_groups() -> Tensor:
    """(B, N) groups of 8, the first token alone in group 0."""
    rows = []
    for _ in range(B):
        inner = torch.cat([torch.arange(1, 8), torch.randint(1, 8, (N - 8,))])
        rows.append(torch.cat([torch.zeros(1, dtype=torch.int64), inner[torch.randperm(N - 1)]]))
    return torch.stack(rows)


def group_mean(x: Tensor, groups: Tensor) -> Tensor:
    same = (groups.unsqueeze(1) == groups.unsqueeze(2)).to(x.dtype)
    return same @ x / same.sum(-1, keepdim=True)


def along(y: Tensor, groups: Tensor) -> Tensor:
    """An operand whose token axes are replaced by means over groups."""
    if y.dim() == 2:
        y = y.unsqueeze(0)
    y = y.expand(B, -1, -1)
    y = group_mean(y, groups)
    return group_mean(y.mT, groups).mT if y.shape[-1] == N else y


def replay_merged(
    case: Case, x: Tensor, operands: list[Tensor], groups: Tensor
) -> tuple[Replay, Tensor]:
    """Replay a case in eager with its first input merged."""
    fakes, source = trace_case(case)
    program = capture(source, fakes, [None] * len(fakes), [False] * len(fakes))
    masks = Masks({}, frozenset())
    labelling = Replay(program.graph, frozenset(), masks)
    labelling.run(*program.inputs)
    first = program.graph.graph.find_nodes(op="placeholder")[0]

    def merge_first(replay: Replay, node: torch.fx.Node, value: Any) -> Any:
        return merged_input(value, groups) if node is first else value

    replay = Replay(program.graph, frozenset(), masks, labelling.labels, after=merge_first)
    return replay, replay.run(x, *operands)


def merged_input(x: TokenTensor, groups: Tensor) -> TokenTensor:
    """x merged into the given groups."""
    count = int(groups.max()) + 1
    kept = torch.stack([(row[:, None] == torch.arange(count)).int().argmax(0) for row in groups])
    rest = [[n for n in range(N) if n not in row] for row in kept.tolist()]
    moved = torch.tensor(rest)
    step = (kept, moved, groups.gather(1, moved))
    size = torch.ones(B, N, dtype=x.data.dtype)
    batch, axis = x.dims[0][0].axis, x.dims[1][0].axis
    space = merged_space(axis, (batch,), None, step, size, 1, 0, frozenset(), 0)
    data = torch.ops.pitome.merge(x.data, size, *step)
    return TokenTensor(data, (x.dims[0], (Atom(axis, space),), x.dims[2]), tainted=True)


def test_every_rule_has_a_case() -> None:
    used = set()
    for case in CASES.values():
        fakes, source = trace_case(case)
        program = capture(source, fakes, [None] * len(fakes), [False] * len(fakes))
        used |= {rule_for(node.target) for node in program.graph.graph.nodes}
    missing = {function.__name__ for function in set(registered().values()) - used}
    # A size is a node only where it is symbolic: test_dynamic.py.
    missing -= {"sym_size"}
    assert not missing, f"rules without a case: {sorted(missing)}"


def trace_case(case: Case) -> tuple[list[Tensor], torch.fx.GraphModule]:
    """A case as an ATen graph on fake inputs."""
    shapes = [ALONG, *case.operands]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]
    with mode:
        return fakes, make_fx(case.f, pre_dispatch=True, _allow_non_fake_inputs=True)(*fakes)
