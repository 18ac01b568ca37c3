"""Attention by hand: every style of writing it that a traced graph may show."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.blocks import SPELLINGS, by_hand
from tests.support.models import Case, randomised
from tests.zoo.entry import Entry, fixed

ATTENTION = "Attention by hand"

N, C, H = 16, 24, 3


def tokens(count: int = N, batch: int = 2) -> Tensor:
    return torch.randn(batch, count, C)


def chunked(x: Tensor, qkv: nn.Linear) -> Tensor:
    """qkv by chunk, heads by view."""
    b, n, c = x.shape
    q, k, v = (y.view(b, n, H, c // H).transpose(1, 2) for y in qkv(x).chunk(3, -1))
    weights = (q @ k.transpose(-2, -1) * (c // H) ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).contiguous().view(b, n, c)


def timm_old(x: Tensor, qkv: nn.Linear) -> Tensor:
    """qkv by reshape, permute and indexing."""
    b, n, c = x.shape
    parts = qkv(x).reshape(b, n, 3, H, c // H).permute(2, 0, 3, 1, 4)
    q, k, v = parts[0], parts[1], parts[2]
    weights = F.softmax((q * (c // H) ** -0.5) @ k.mT, dim=-1)
    return (weights @ v).transpose(1, 2).reshape(b, n, c)


def ellipsis(x: Tensor, qkv: nn.Linear) -> Tensor:
    """einsum with an ellipsis for batch and heads."""
    q, k, v = qkv(x).unflatten(-1, (3, H, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    weights = torch.einsum("...id,...jd->...ij", q, k).mul(8**-0.5).softmax(-1)
    return torch.einsum("...ij,...jd->...id", weights, v).transpose(1, 2).flatten(2)


def letters(x: Tensor, qkv: nn.Linear) -> Tensor:
    """einsum with capital letters and spaces, (B, H, N, D)."""
    q, k, v = qkv(x).unflatten(-1, (3, H, -1)).unbind(2)
    scores = torch.einsum("b q h d, b k h d -> b h q k", q, k) / 8**0.5
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=3), v).flatten(-2)


def keys_first(x: Tensor, qkv: nn.Linear) -> Tensor:
    """Scores (B, H, keys, queries), softmax over dimension −2."""
    q, k, v = qkv(x).unflatten(-1, (3, H, -1)).permute(2, 0, 3, 1, 4)
    weights = (k @ q.transpose(-2, -1) / 8**0.5).softmax(-2)
    return (weights.transpose(-2, -1) @ v).transpose(1, 2).flatten(2)


def one_head(x: Tensor, qkv: nn.Linear) -> Tensor:
    """A single head on (B, N, C)."""
    q, k, v = qkv(x).chunk(3, dim=-1)
    return torch.softmax(torch.bmm(q, k.transpose(1, 2)) / C**0.5, dim=-1).bmm(v)


def sdpa_over_heads(x: Tensor, qkv: nn.Linear) -> Tensor:
    """SDPA on (B, N, H, D): it attends over heads, not tokens."""
    q, k, v = qkv(x).unflatten(-1, (3, H, -1)).unbind(2)
    return F.scaled_dot_product_attention(q, k, v).flatten(2)


def grouped_queries(x: Tensor, qkv: nn.Linear) -> Tensor:
    """Keys and values of the first head, for all heads."""
    q, k, v = qkv(x).unflatten(-1, (3, H, -1)).permute(2, 0, 3, 1, 4)
    k, v = (y[:, :1].expand(-1, H, -1, -1) for y in (k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def repeated_keys(x: Tensor, qkv: nn.Linear) -> Tensor:
    """The same with repeat_interleave."""
    q, k, v = qkv(x).unflatten(-1, (3, H, -1)).permute(2, 0, 3, 1, 4)
    k, v = (y[:, :1].repeat_interleave(H, 1) for y in (k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def rope_halves(x: Tensor, qkv: nn.Linear) -> Tensor:
    """Rotary positions, the two halves of a head as one pair."""
    q, k, v = qkv(x).unflatten(-1, (3, H, -1)).permute(2, 0, 3, 1, 4)
    angles = torch.outer(torch.arange(N).to(x), torch.tensor([1.0, 0.3, 0.1, 0.03]).to(x))
    cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))

    def turn(y: Tensor) -> Tensor:
        left, right = y.chunk(2, -1)
        return y * cos + torch.cat([-right, left], -1) * sin

    return F.scaled_dot_product_attention(turn(q), turn(k), v).transpose(1, 2).flatten(2)


def rope_complex(x: Tensor, qkv: nn.Linear) -> Tensor:
    """Rotary positions by complex numbers (Llama)."""
    q, k, v = qkv(x).unflatten(-1, (3, H, -1)).permute(2, 0, 3, 1, 4)
    angles = torch.outer(torch.arange(N).to(x), torch.tensor([1.0, 0.3, 0.1, 0.03]).to(x))
    turns = torch.polar(torch.ones_like(angles), angles)

    def turn(y: Tensor) -> Tensor:
        pairs = torch.view_as_complex(y.unflatten(-1, (4, 2)).contiguous())
        return torch.view_as_real(pairs * turns).flatten(-2)

    return F.scaled_dot_product_attention(turn(q), turn(k), v).transpose(1, 2).flatten(2)


def normalised(x: Tensor, qkv: nn.Linear) -> Tensor:
    """Cosine attention: q and k of length 1."""
    q, k, v = qkv(x).unflatten(-1, (3, H, -1)).permute(2, 0, 3, 1, 4)
    weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * 5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def linear_attention(x: Tensor, qkv: nn.Linear) -> Tensor:
    """softmax(q) · (softmax over tokens of k)ᵀ v: there are no scores."""
    q, k, v = qkv(x).unflatten(-1, (3, H, -1)).permute(2, 0, 3, 1, 4)
    context = k.softmax(-2).transpose(-2, -1) @ v
    return (q.softmax(-1) @ context).transpose(1, 2).flatten(2)


def channels(x: Tensor, qkv: nn.Linear) -> Tensor:
    """XCiT: channels attend to channels."""
    q, k, v = qkv(x).unflatten(-1, (3, H, -1)).permute(2, 0, 3, 4, 1)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    weights = (q @ k.transpose(-2, -1)).softmax(-1)
    return (weights @ v).permute(0, 3, 1, 2).flatten(2)


def windows(x: Tensor, qkv: nn.Linear) -> Tensor:
    """Attention in windows of four tokens."""
    q, k, v = qkv(x).view(-1, 4, 4, 3, H, C // H).permute(3, 0, 1, 4, 2, 5)
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)


class Attention(nn.Module):
    """qkv, one of the functions above, and a projection."""

    def __init__(self, attend: Callable[[Tensor, nn.Linear], Tensor] = chunked) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.attend = attend

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.attend(x, self.qkv))


class TalkingHeads(nn.Module):
    """Heads are mixed before and after the softmax (CaiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.before, self.after = nn.Linear(H, H), nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, H, -1)).permute(2, 0, 3, 1, 4)
        scores = q * 8**-0.5 @ k.transpose(-2, -1)
        scores = self.before(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        weights = self.after(scores.softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Pre-norm attention and MLP; how they meet the stream is up to ``forward`` of the model."""

    def __init__(self, attention: Callable[[], nn.Module] = Attention) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attn = attention()
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Stack(nn.Module):
    """Three layers with one kind of attention, and a head on every token."""

    def __init__(self, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Layer(attention) for _ in range(3)))
        self.head = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


def stack(attention: Callable[[], nn.Module]) -> Case:
    return Case(randomised(Stack(attention)), (tokens(),))


def style(attend: Callable[[Tensor, nn.Linear], Tensor], verdict: str = "3 of 3") -> Entry:
    """The entry of an attention function, named after it."""
    name = "attention-" + attend.__name__.replace("_", "-")
    return Entry(ATTENTION, name, partial(stack, partial(Attention, attend)), verdict)


SPLIT = "0 of 3: windowed, grid or channel attention"

ENTRIES = [
    *(Entry(ATTENTION, f"by-hand-{name}", partial(by_hand, name), "3 of 3") for name in SPELLINGS),
    *(
        fixed(
            Entry(ATTENTION, f"by-hand-{name}-bias", partial(by_hand, name, True, "mean"), "3 of 3")
        )
        for name in SPELLINGS
    ),
    style(chunked),
    style(timm_old),
    style(ellipsis),
    style(letters),
    style(keys_first),
    style(one_head),
    style(grouped_queries),
    style(repeated_keys),
    fixed(style(rope_halves)),
    fixed(style(rope_complex)),
    style(normalised),
    style(linear_attention),
    style(sdpa_over_heads, SPLIT),
    style(channels, SPLIT),
    fixed(style(windows, SPLIT)),
    Entry(ATTENTION, "attention-talking-heads", partial(stack, TalkingHeads), "3 of 3"),
]
