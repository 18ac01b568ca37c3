"""Outputs lie in memory as the dense model's do: strides, offsets, and who shares with whom."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import pitome_fx
from pitome_fx.testing import simulate
from tests.support.compiled import compiled
from tests.support.oracle import assert_close, tensors

BATCH, TOKENS, WIDTH = 2, 12, 8
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
    """Two blocks, behind a class token, and what is read of their tokens.

    Args:
        normed: is it a fresh tensor that is read, or the sum in which tokens merge?
        tokens_first: are tokens (N, B, C) from end to end, with the read-out's view of them?
    """

    def __init__(
        self, read: Callable[[Tensor], Any], normed: bool = True, tokens_first: bool = False
    ) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(WIDTH) if normed else nn.Identity()
        self.read, self.tokens_first = read, tokens_first

    def forward(self, x: Tensor) -> Any:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        if self.tokens_first:
            x = x.transpose(0, 1).contiguous().transpose(0, 1)
        return self.read(self.norm(self.blocks(x)))


@dataclass(frozen=True)
class Memory:
    """How tensors lie in memory: what a caller can tell of it."""

    form: list[Any]
    shared: list[int]

    @classmethod
    def of(cls, output: Any) -> Memory:
        found = tensors(output)
        storages = [x.untyped_storage().data_ptr() for x in found]
        form = [(x.shape, x.dtype, x.stride(), x.storage_offset()) for x in found]
        return cls(form, [storages.index(storage) for storage in storages])


def model(read: str, **kinds: bool) -> Reads:
    torch.manual_seed(0)
    return Reads(READ_OUTS[read], **kinds).double().eval()


def inputs(batch: int = BATCH, tokens: int = TOKENS - 1) -> Tensor:
    return torch.randn(batch, tokens, WIDTH, dtype=torch.float64)


def assert_like_dense(output: Any, dense: Any) -> None:
    assert Memory.of(output) == Memory.of(dense)
    first = [x for x in tensors(output) if x.is_floating_point()]
    wanted = [x.detach().clone() for x in tensors(dense)]
    if len(first) == len(wanted) > 1:
        with torch.no_grad():
            tensors(output)[0].fill_(7)
            tensors(dense)[0].fill_(7)
        for a, b in zip(tensors(output), tensors(dense), strict=True):
            assert torch.equal(a == 7, b == 7), "a write into one is seen in others"


KINDS = {
    "fresh": {},
    "stream": {"normed": False},
    "tokens first": {"tokens_first": True},
}


@pytest.mark.parametrize("read", READ_OUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_transformed_model(read: str, kind: str) -> None:
    module = model(read, **KINDS[kind])
    for batch in (BATCH, 1):
        x = inputs(batch)
        with torch.no_grad():
            graph = pitome_fx.transform(module, (x,), strict=True, **MERGE)
            output, dense = graph(x), module(x)
            assert_close(floats(output), floats(simulate(module, (x,), **MERGE)), 1e-9)
            assert_like_dense(output, dense)


def floats(output: Any) -> list[Tensor]:
    return [x.view(torch.float64) if x.dtype == torch.int32 else x for x in tensors(output)]


@pytest.mark.parametrize("read", READ_OUTS)
@pytest.mark.parametrize("lowering", ["eager", "aot_eager"])
def test_a_compiled_model(read: str, lowering: str) -> None:
    module, x = model(read), inputs()
    for grad in (False, True):
        torch._dynamo.reset()
        with torch.set_grad_enabled(grad):
            output = compiled(module, lowering=lowering, **MERGE)(x)
            torch._dynamo.reset()
            plain = torch.compile(module, backend=lowering)(x)
        assert_like_dense(output, plain)


@pytest.mark.slow
@pytest.mark.parametrize("read", READ_OUTS)
def test_inductor(read: str) -> None:
    """As plain Inductor leaves them, which leaves them as the model does."""
    module, x = model(read), inputs()
    with torch.no_grad():
        plain = torch.compile(module, backend="inductor")(x)
        torch._dynamo.reset()
        output = compiled(module, lowering="inductor", **MERGE)(x)
    assert_like_dense(output, plain)


@pytest.mark.parametrize("read", READ_OUTS)
def test_dynamic_shapes(read: str) -> None:
    module = model(read)
    fast = torch.compile(
        module,
        backend="pitome",
        dynamic=True,
        options={"lowering": "aot_eager", "strict": True, **MERGE},
    )
    with torch.no_grad():
        for batch, tokens in ((3, 26), (2, 17)):
            x = inputs(batch, tokens)
            assert_like_dense(fast(x), module(x))
