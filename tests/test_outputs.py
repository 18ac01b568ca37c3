"""Outputs lie in memory as the dense model's do: strides, offsets, and who shares with whom."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pitome_fx
from tests.properties.trial import LIMIT, Flat, every_merge_pays, rewritten, tried, worst_error
from tests.support.compiled import compiled
from tests.support.oracle import tensors

WIDTH = 8
MERGE = {"ratio": 0.6, "min_tokens": 2}


def grid(x: Tensor) -> Tensor:
    return x.unflatten(1, (3, -1)).permute(0, 3, 1, 2)


def written(x: Tensor) -> tuple[Tensor, Tensor]:
    """A view that was written through, and what it is a view of."""
    pooled = x.mean(1)
    pooled[:, :3].mul_(2)
    return pooled, pooled[:, 1:5]


def filled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two names of a tensor that was written to as a whole."""
    half = x.sum(1) / 2
    half += 1
    return half, half.view(-1, 2, WIDTH // 2).transpose(1, 2)


READ_OUTS: dict[str, Callable[[Tensor], Any]] = {
    "all": lambda x: x,
    "class token": lambda x: x[:, 0],
    "class token, kept": lambda x: x[:, :1],
    "half a class token": lambda x: x[:, 0, 3:5],
    "every other of its channels": lambda x: x[:, 0, 1::2],
    "class token, spread": lambda x: x[:, :1].expand(-1, 3, -1),
    "class token, copied": lambda x: x[:, 0] * 2,
    "class token, transposed": lambda x: x[:, 0].T,
    "last token": lambda x: x[:, -1],
    "patches": lambda x: x[:, 1:],
    "every fifth": lambda x: x[:, ::5],
    "channels": lambda x: x[..., :5],
    "channels first": lambda x: x.mT,
    "channels first, copied": lambda x: x.mT.contiguous(),
    "tokens first": lambda x: x.transpose(0, 1),
    "grid": lambda x: grid(x),
    "grid of patches": lambda x: grid(x[:, 1:-2]),
    "channels-last grid": lambda x: grid(x).contiguous(memory_format=torch.channels_last),
    "mean, spread": lambda x: x.mean(1, keepdim=True).expand(-1, 5, -1),
    "mean, as the tokens": lambda x: x.mean(1, keepdim=True).expand_as(x),
    "a diagonal": lambda x: x.diagonal(dim1=1, dim2=2),
    "windows that overlap": lambda x: x.unfold(1, 4, 2),
    "one token of many": lambda x: x.unbind(1)[4],
    "bits": lambda x: x.view(torch.int32),
    "pairs": lambda x: torch.view_as_complex(x.unflatten(-1, (-1, 2))),
    "class token and all": lambda x: (x[:, 0], x),
    "class token and patches": lambda x: {"class": x[:, 0], "patches": x[:, 1:]},
    "two special tokens": lambda x: (x[:, 0], x[:, 1]),
    "both ways round": lambda x: (x, x.mT),
    "twice": lambda x: (x, x, x[:, 2:], x[:, 2:]),
    "halves": lambda x: x.chunk(2, -1),
    "parts of different tensors": lambda x: (x[:, 0], (x + 1)[:, 0], x.mean(1)),
    "a part of itself": lambda x: (x[:, 1:], x[:, 1:][:, :3]),
    "the same after no-ops": lambda x: (x, x.contiguous(), x.to(x.dtype), x.reshape(x.shape)),
    "written through a view": written,
    "written to": filled,
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return x + nn.functional.scaled_dot_product_attention(q, k, v)


class Reads(nn.Module):
    """Two blocks behind a class token, and what is read of their tokens.

    Args:
        normed: is it a fresh tensor that is read, or the sum after which tokens merge?
        tokens_first: are the tokens in memory (N, B, C)?
    """

    def __init__(
        self, read: Callable[[Tensor], Any], normed: bool = True, tokens_first: bool = False
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(WIDTH) if normed else nn.Identity()
        self.read, self.tokens_first = read, tokens_first
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        if self.tokens_first:
            x = x.transpose(0, 1).contiguous().transpose(0, 1)
        return self.read(self.norm(self.blocks(x)))


KINDS = {
    "fresh": ({}, 2),
    "stream of one item": ({"normed": False}, 1),
    "tokens first": ({"tokens_first": True}, 2),
}


TOGETHER = (
    "all",
    "class token",
    "last token",
    "patches",
    "grid of patches",
    "mean, spread",
    "bits",
    "class token and all",
    "two special tokens",
    "both ways round",
    "written through a view",
)


def together(x: Tensor) -> dict[str, Any]:
    """Many read-outs, each of a tensor of its own: one compile for all."""
    return {name: READ_OUTS[name](x * (i + 1)) for i, name in enumerate(TOGETHER)}


def inputs(batch: int = 2, tokens: int = 11) -> Tensor:
    return torch.randn(batch, tokens, WIDTH, dtype=torch.float64)


def assert_lies_like(output: Any, dense: Any) -> None:
    """Shapes, dtypes, strides, offsets, and which tensors see what is written into one."""
    assert list(map(form, tensors(output))) == list(map(form, tensors(dense)))
    assert shared(output) == shared(dense)
    for a, b in zip(tensors(output), tensors(dense), strict=True):
        if 0 not in a.stride():
            with torch.no_grad():
                a.fill_(7)
                b.fill_(7)
    for a, b in zip(tensors(output), tensors(dense), strict=True):
        assert torch.equal(a == 7, b == 7)


def form(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.dtype, x.stride(), x.storage_offset()


def shared(output: Any) -> list[int]:
    """For every tensor the first one whose memory it shares."""
    storages = [x.untyped_storage().data_ptr() for x in tensors(output)]
    return [storages.index(storage) for storage in storages]


def as_floats(output: Any) -> list[Tensor]:
    """Bits and pairs as the numbers that they stand for."""
    real = [torch.view_as_real(x) if x.is_complex() else x for x in tensors(output)]
    return [x if x.is_floating_point() else x.view(torch.float64) for x in real]


@pytest.mark.parametrize("read", READ_OUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_read_out(read: str, kind: str) -> None:
    """By itself, so that no other output shares its memory."""
    changes, batch = KINDS[kind]
    module, x = Reads(READ_OUTS[read], **changes), inputs(batch)
    flat = Flat(module, (x,))
    trial = tried(rewritten(flat, {**MERGE, "pays": True}), flat)
    assert trial.merges > 0
    assert worst_error(tuple(as_floats(trial.output)), tuple(as_floats(trial.simulated))) <= LIMIT
    output, (after,) = trial.output[:-1], trial.output[-1:]
    assert torch.equal(after, x), "the input is as it was"
    assert_lies_like(output, tensors(module(x)))


@pytest.mark.parametrize("lowering", ["eager", "aot_eager"])
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_compiled(lowering: str, grad: bool) -> None:
    """As the same lowering leaves those of the dense model, which are the model's own."""
    module, x = Reads(together), inputs()
    with torch.set_grad_enabled(grad), every_merge_pays(True):
        output = compiled(module, lowering=lowering, **MERGE)(x)
        torch._dynamo.reset()
        plain = torch.compile(module, backend=lowering)(x)
    assert_lies_like(output, plain)


@pytest.mark.slow
def test_inductor() -> None:
    reads = ("class token", "patches", "class token and all")
    module, x = Reads(lambda x: [READ_OUTS[name](x * 2) for name in reads]), inputs()
    with torch.no_grad(), every_merge_pays(True):
        output = compiled(module, lowering="inductor", **MERGE)(x)
        torch._dynamo.reset()
        plain = torch.compile(module, backend="inductor")(x)
    assert_lies_like(output, plain)


def test_dynamic_shapes() -> None:
    module = Reads(together)
    options = {"lowering": "aot_eager", "strict": True, **MERGE}
    fast = torch.compile(module, backend="pitome", dynamic=True, options=options)
    with torch.no_grad(), every_merge_pays(True):
        for batch, tokens in ((3, 26), (2, 17)):
            x = inputs(batch, tokens)
            assert_lies_like(fast(x), module(x))


def test_exported_program_saved_and_loaded() -> None:
    module, x = Reads(together), inputs()
    with torch.no_grad(), every_merge_pays(True):
        program = pitome_fx.transform(torch.export.export(module, (x,)), strict=True, **MERGE)
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        for made in (program, torch.export.load(file)):
            assert_lies_like(made.module()(x), module(x))


@pytest.mark.parametrize("form", ["aten", "portable"])
def test_dissolved(form: str) -> None:
    module, x = Reads(together), inputs()
    with torch.no_grad(), every_merge_pays(True):
        graph = pitome_fx.transform(module, (x,), strict=True, form=form, **MERGE)
        assert_lies_like(graph(x), module(x))


def test_a_class_token_is_read_without_unmerging() -> None:
    """Its strides are those of a part of all tokens, though these are never made."""
    flat = Flat(Reads(READ_OUTS["class token"]), (inputs(),))
    outcome = rewritten(flat, {**MERGE, "pays": True})
    assert outcome.rewritten is not None and outcome.rewritten.lifts == ()
