"""nn.TransformerEncoderLayer's fused inference op, spelled out so that its blocks can be seen."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def encoder_layer(
    src: Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:
    """The same as ``aten._transformer_encoder_layer_fwd`` on src (B, N, C).

    mask: True hides; mask_type 0 (N, N) attention, 1 (B, N) padding, 2 (B, H, N, N) both.
    """

    def norm1(x: Tensor) -> Tensor:
        return F.layer_norm(x, (embed_dim,), norm_weight_1, norm_bias_1, eps)

    def norm2(x: Tensor) -> Tensor:
        return F.layer_norm(x, (embed_dim,), norm_weight_2, norm_bias_2, eps)

    def attend(x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = F.linear(x, qkv_weight, qkv_bias)
        q, k, v = qkv.view(batch, tokens, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = None
        if mask is not None:
            hidden = mask.to(torch.bool)
            bias = ~(hidden[:, None, None, :] if mask_type == 1 else hidden)
        out = F.scaled_dot_product_attention(q, k, v, bias)
        out = out.transpose(1, 2).reshape(batch, tokens, embed_dim)
        return F.linear(out, proj_weight, proj_bias)

    def feed_forward(x: Tensor) -> Tensor:
        inner = F.linear(x, ffn_weight_1, ffn_bias_1)
        return F.linear(F.gelu(inner) if use_gelu else F.relu(inner), ffn_weight_2, ffn_bias_2)

    if norm_first:
        src = src + attend(norm1(src))
        return src + feed_forward(norm2(src))
    src = norm1(src + attend(src))
    return norm2(src + feed_forward(src))
