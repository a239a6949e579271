"""A decoder-only Transformer, read from top to bottom.

Shapes in names: B sequences, T positions, D width, V vocabulary, H query heads, G key-value heads,
Q head size, F feed-forward width. Blocks are pre-norm: x + attention(norm(x)), x + ffn(norm(x)).
Parameter counts and FLOPs are those of `study/shape.py` and `study/flops.py`, exactly.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaling.study.shape import ModelShape

NORM_EPS = 1e-5  # GPT-2 and Llama 2

# Embedding entries at the start. Blocks add outputs of order 1, see `init_weights`.
EMBEDDING_STD = 0.02


class Transformer(nn.Module):
    """Tokens in, next-token logits or loss out.

    Args:
        shape: sizes and parts.
        attention: `sdpa` (torch's fused kernel) or `matmul` (plain matrix products; faster on CPU
            at short context). Both give the same numbers to rounding.

    Build it under `torch.device("meta")` to count parameters without memory.
    """

    def __init__(self, shape: ModelShape, *, attention: str = "sdpa") -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.position = _position(shape)
        self.blocks = nn.ModuleList(Block(shape, attention) for _ in range(shape.layers))
        self.norm = _norm(shape)
        self.head = nn.Linear(shape.width, shape.vocab, bias=False)
        if shape.tied:
            self.head.weight = self.embedding.weight
        tables = _rotary_tables(shape) if shape.position == "rotary" else (None, None)
        self.register_buffer("cos_TQ", tables[0], persistent=False)
        self.register_buffer("sin_TQ", tables[1], persistent=False)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None, *, reduction: str = "mean") -> Tensor:
        """Return logits [B, T, V]; with targets, the cross-entropy in nats per token.

        Args:
            tokens_BT: token indices, T at most the context.
            targets_BT: the token that follows each of them.
            reduction: `mean` gives one number, `none` one per token [B, T].
        """
        T = tokens_BT.shape[1]
        x_BTD = self.embedding(tokens_BT)
        if self.position is not None:
            x_BTD = x_BTD + self.position[:T]
        rotation = None if self.cos_TQ is None else (self.cos_TQ[:T], self.sin_TQ[:T])
        for block in self.blocks:
            x_BTD = block(x_BTD, rotation)
        logits_BTV = self.head(self.norm(x_BTD))
        if targets_BT is None:
            return logits_BTV
        # a sum over V in bfloat16 would cost about 0.01 nats of precision
        loss = F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction=reduction)
        return loss if reduction == "mean" else loss.view_as(targets_BT)

    @torch.no_grad()
    def init_weights(self, seed: int) -> Transformer:
        """Draw every weight from `seed`, the same on every device; returns itself.

        A matrix has entries of standard deviation 1/sqrt(inputs), so that a signal keeps its size
        at any width (LeCun et al. 1998); GPT-2's 0.02 is this at width 2500 and would starve a
        width of 16. The two matrices of a block that write to the residual stream are smaller by
        sqrt(2 layers), so that depth does not grow it (Radford et al. 2019, section 2.3).
        """
        generator = torch.Generator().manual_seed(seed)

        def draw(weight: Tensor, std: float) -> None:
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)

        residual = 1 / math.sqrt(2 * self.shape.layers)
        draw(self.embedding.weight, EMBEDDING_STD)
        if isinstance(self.position, nn.Parameter):
            draw(self.position, EMBEDDING_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.weight is not self.embedding.weight:
                scale = residual if getattr(module, "writes_residual", False) else 1.0
                draw(module.weight, scale / math.sqrt(module.in_features))
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, (nn.RMSNorm, nn.LayerNorm)):
                module.weight.fill_(1.0)
                if getattr(module, "bias", None) is not None:
                    module.bias.zero_()
        return self


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to the residual stream."""

    def __init__(self, shape: ModelShape, attention: str) -> None:
        super().__init__()
        self.attention_norm = _norm(shape)
        self.attention = Attention(shape, attention)
        self.ffn_norm = _norm(shape)
        self.ffn = FeedForward(shape)

    def forward(self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotation)
        return x_BTD + self.ffn(self.ffn_norm(x_BTD))


class Attention(nn.Module):
    """Causal self-attention with H query heads sharing G key and value heads."""

    def __init__(self, shape: ModelShape, kernel: str) -> None:
        super().__init__()
        s = shape
        self.H, self.G, self.Q, self.kernel = s.heads, s.kv_heads, s.head_size, kernel
        self.qkv = nn.Linear(s.width, (s.heads + 2 * s.kv_heads) * s.head_size, bias=s.bias)
        self.out = _writer(s.heads * s.head_size, s.width, s.bias)
        self.qk_norm = s.qk_norm
        if s.qk_norm != "none":
            per_head = s.qk_norm == "head"
            self.q_norm = nn.RMSNorm(s.head_size * (1 if per_head else s.heads), eps=NORM_EPS)
            self.k_norm = nn.RMSNorm(s.head_size * (1 if per_head else s.kv_heads), eps=NORM_EPS)
        mask_TT = torch.full((s.context, s.context), -math.inf).triu(1) if kernel == "matmul" else None
        self.register_buffer("mask_TT", mask_TT, persistent=False)

    def forward(self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        B, T, _ = x_BTD.shape
        H, G, Q = self.H, self.G, self.Q
        qkv = self.qkv(x_BTD)
        if self.qk_norm == "full":
            q, k, v = qkv.split([H * Q, G * Q, G * Q], dim=-1)
            qkv = torch.cat([self.q_norm(q), self.k_norm(k), v], dim=-1)
        # heads first and contiguous: one copy, after which every slice of heads is a free view
        qk_HBTQ, v_GBTQ = qkv.view(B, T, H + 2 * G, Q).permute(2, 0, 1, 3).contiguous().split([H + G, G])
        if self.qk_norm == "head":
            q_HBTQ, k_GBTQ = qk_HBTQ.split([H, G])
            qk_HBTQ = torch.cat([self.q_norm(q_HBTQ), self.k_norm(k_GBTQ)])
        if rotation is not None:
            qk_HBTQ = _rotate(qk_HBTQ, *rotation)
        q_HBTQ, k_GBTQ = qk_HBTQ.split([H, G])
        k_HBTQ, v_HBTQ = (t.repeat_interleave(H // G, dim=0) if G < H else t for t in (k_GBTQ, v_GBTQ))
        attend = self._attend_matmul if self.kernel == "matmul" else self._attend_sdpa
        y_HBTQ = attend(q_HBTQ, k_HBTQ, v_HBTQ)
        return self.out(y_HBTQ.permute(1, 2, 0, 3).reshape(B, T, H * Q))

    def _attend_matmul(self, q_HBTQ: Tensor, k_HBTQ: Tensor, v_HBTQ: Tensor) -> Tensor:
        """Softmax(q k' / sqrt(Q) + mask) v as plain matrix products over the H·B batch."""
        H, B, T, Q = q_HBTQ.shape
        q, k, v = (t.reshape(H * B, T, Q) for t in (q_HBTQ, k_HBTQ, v_HBTQ))
        mask = self.mask_TT[:T, :T].to(q.dtype)
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=1 / math.sqrt(Q))
        return torch.bmm(scores.softmax(-1), v).view(H, B, T, Q)

    @staticmethod
    def _attend_sdpa(q_HBTQ: Tensor, k_HBTQ: Tensor, v_HBTQ: Tensor) -> Tensor:
        q, k, v = (t.transpose(0, 1) for t in (q_HBTQ, k_HBTQ, v_HBTQ))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1)


class FeedForward(nn.Module):
    """down(activation(up(x))); SwiGLU multiplies by a gate, computed in the same product as `up`."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.activation = shape.activation
        wide = 2 * shape.ffn if shape.activation == "swiglu" else shape.ffn
        self.up = nn.Linear(shape.width, wide, bias=shape.bias)
        self.down = _writer(shape.ffn, shape.width, shape.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        h = self.up(x_BTD)
        if self.activation == "swiglu":  # Shazeer 2020, arXiv:2002.05202
            gate_BTF, up_BTF = h.chunk(2, dim=-1)
            h_BTF = F.silu(gate_BTF) * up_BTF
        elif self.activation == "gelu":
            h_BTF = F.gelu(h, approximate="tanh")  # GPT-2's form
        else:  # So et al. 2021, arXiv:2109.08668
            h_BTF = F.relu(h).square()
        return self.down(h_BTF)


def _writer(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    """A matrix that writes to the residual stream; `init_weights` draws it smaller."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    linear.writes_residual = True  # type: ignore[assignment]
    return linear


def _norm(shape: ModelShape) -> nn.Module:
    if shape.norm == "rmsnorm":
        return nn.RMSNorm(shape.width, eps=NORM_EPS)
    return nn.LayerNorm(shape.width, eps=NORM_EPS, bias=shape.bias)


def _position(shape: ModelShape) -> Tensor | None:
    """What is added to the embedding: a learned table, a fixed one, or nothing."""
    if shape.position == "learned":
        return nn.Parameter(torch.empty(shape.context, shape.width))
    return None


def _rotary_tables(shape: ModelShape) -> tuple[Tensor, Tensor]:
    """Return cos and signed sin [T, Q] of each position's rotation.

    Channel i is paired with i + Q/2 (as in Llama's public weights); the first half of sin carries
    the minus sign, so that a rotation is x·cos + roll(x, Q/2)·sin.

    Source: Su et al. 2021, arXiv:2104.09864.
    """
    half = torch.arange(0, shape.head_size, 2, dtype=torch.float32) / shape.head_size
    angle = torch.outer(torch.arange(shape.context, dtype=torch.float32), shape.rotary_base**-half)
    return torch.cat([angle.cos()] * 2, -1), torch.cat([-angle.sin(), angle.sin()], -1)


def _rotate(x_HBTQ: Tensor, cos_TQ: Tensor, sin_TQ: Tensor) -> Tensor:
    """Turn each pair of channels by its position's angle."""
    return x_HBTQ * cos_TQ + x_HBTQ.roll(x_HBTQ.shape[-1] // 2, -1) * sin_TQ
