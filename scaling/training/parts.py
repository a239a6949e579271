"""What Transformers are made of: attention, feed-forward, norms, positions, and the block of both.

Shapes in names: B sequences, T positions, S positions that are looked at, D width, H query heads, G key-value heads,
Q head size, E channels of a joint projection, F feed-forward width. Blocks are pre-norm,
x + attention(norm(x)), x + ffn(norm(x)), or post-norm, norm(x + attention(x)), norm(x + ffn(x)).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scaling.study.shape import BUCKETS, FARTHEST, GATED, ModelShape
from scaling.training import fused
from scaling.training.kernels import RmsNorm, attend_matmul
from scaling.training.past import KeyValues

# Standard deviation of token and position tables: what a fresh block adds has entries of this order
# at any width, so that neither drowns the other. Measured on the embedded text, widths 36 to 112,
# 400 steps, two seeds each: 0.25 and 0.5 are best and equal within 0.01 nats; 0.02 loses 0.05 to
# 0.12 nats, 1.0 loses up to 0.03. Width 20 is flat from 0.1 to 1.
TABLE_STD = 0.3

# Positions up to which plain products serve attention to both sides; beyond, scores take the memory.
SHORT = 512


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to the residual stream.

    Args:
        causal: each position sees those before it and itself; else all of them.
    """

    def __init__(
        self, shape: ModelShape, attention: str, recompute: bool = False, *, causal: bool = True
    ) -> None:
        super().__init__()
        self.recompute, self.native = recompute, attention == "native"
        self.post = shape.norm_at == "post"
        self.attention_norm = build_norm(shape)
        self.attention = Attention(shape, attention, causal=causal)
        self.ffn_norm = build_norm(shape)
        self.ffn = FeedForward(shape, native=self.native)

    def forward(
        self,
        x_BTD: Tensor,
        turn_TQ2: Tensor | None,
        *,
        bias_HTT: Tensor | None = None,
        seen_BT: Tensor | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:
        """Return the stream behind the layer; arguments as of `Attention`."""
        if self.recompute and past is None and torch.is_grad_enabled():
            return _recomputed(self._add, x_BTD, turn_TQ2, bias_HTT, seen_BT)
        return self._add(x_BTD, turn_TQ2, bias_HTT, seen_BT, past)

    def _add(
        self,
        x_BTD: Tensor,
        turn_TQ2: Tensor | None,
        bias_HTT: Tensor | None,
        seen_BT: Tensor | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:
        given: dict[str, Any] = {"bias_HTT": bias_HTT, "seen_BT": seen_BT, "past": past}
        if self.post:
            x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD, turn_TQ2, **given))
            after: Tensor = self.ffn_norm(x_BTD + self.ffn(x_BTD))
            return after
        if self.native and past is None and suits_native(x_BTD, stream=True):
            x_BTD, h_BTD = add_norm(x_BTD, None, self.attention_norm)
            x_BTD, h_BTD = add_norm(x_BTD, self.attention(h_BTD, turn_TQ2, **given), self.ffn_norm)
            return x_BTD + self.ffn(h_BTD)
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), turn_TQ2, **given)
        return x_BTD + self.ffn(self.ffn_norm(x_BTD))


class Attention(nn.Module):
    """Self-attention with H query heads sharing G key and value heads."""

    mask_TT: Tensor

    def __init__(self, shape: ModelShape, kernel: str, *, causal: bool = True) -> None:
        super().__init__()
        s = shape
        self.H, self.G, self.Q, self.causal = s.heads, s.kv_heads, s.head_size, causal
        self.kernel = kernel if causal else _two_sided(kernel, s)
        if s.position == "relative":  # the other two give no gradient of what is added to scores
            self.kernel = "sdpa"
        self.scale, self.scale_scores = s.score_scale, s.scale_scores
        self.qkv = nn.Linear(s.width, (s.heads + 2 * s.kv_heads) * s.head_size, bias=s.bias)
        self.out = _writer(s.heads * s.head_size, s.width, s.bias)
        self.qk_norm = s.qk_norm
        if s.qk_norm != "none":
            per_head = s.qk_norm == "head"
            self.q_norm = RmsNorm(s.head_size * (1 if per_head else s.heads), eps=s.norm_eps)
            self.k_norm = RmsNorm(s.head_size * (1 if per_head else s.kv_heads), eps=s.norm_eps)
        mask_TT = _mask(s, causal) if self.kernel == "matmul" else None
        self.register_buffer("mask_TT", mask_TT, persistent=False)

    def forward(
        self,
        x_BTD: Tensor,
        turn_TQ2: Tensor | None,
        *,
        bias_HTT: Tensor | None = None,
        seen_BT: Tensor | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:
        """Return what attention adds [B, T, D].

        Args:
            bias_HTT: added to the scores, by distance.
            seen_BT: positions to look at, null: all. It is for attention to both sides: padding lies
                behind a text, where attention to one side does not look.
            past: what was read before.
        """
        B, T, _ = x_BTD.shape
        H, G, Q = self.H, self.G, self.Q
        qkv = self.qkv(x_BTD)
        if self.qk_norm == "full":
            q, k, v = qkv.split([H * Q, G * Q, G * Q], dim=-1)
            qkv = torch.cat([self.q_norm(q), self.k_norm(k), v], dim=-1)
        native = self.kernel == "native" and past is None
        if native and self.qk_norm != "head" and suits_native(qkv):
            y_BTE = fused.attend(qkv, turn_TQ2, heads=H, kv_heads=G, head_size=Q, scale=self.scale)
            return self.out(y_BTE)
        # heads first and contiguous: one copy, after which every slice of heads is a free view
        qk_HBTQ, v_GBTQ = (
            qkv.view(B, T, H + 2 * G, Q).permute(2, 0, 1, 3).contiguous().split([H + G, G])
        )
        if self.qk_norm == "head":
            q_HBTQ, k_GBTQ = qk_HBTQ.split([H, G])
            qk_HBTQ = torch.cat([self.q_norm(q_HBTQ), self.k_norm(k_GBTQ)])
        if turn_TQ2 is not None:
            qk_HBTQ = rotate(qk_HBTQ, turn_TQ2)
        q_HBTQ, k_GBTQ = qk_HBTQ.split([H, G])
        if past is not None:
            seen_BTE = past.attend(q_HBTQ, k_GBTQ, v_GBTQ, scale=self.scale, bias_HTS=bias_HTT)
            return self.out(seen_BTE)
        k_HBTQ, v_HBTQ = (
            t.repeat_interleave(H // G, dim=0) if G < H else t for t in (k_GBTQ, v_GBTQ)
        )
        if self.kernel == "matmul":
            mask = self.mask_TT[:T, :T] if seen_BT is None else _hide(seen_BT).repeat(H, 1)[:, None]
            y_HBTQ = attend_matmul(q_HBTQ, k_HBTQ, v_HBTQ, mask, scale=self.scale)
        else:
            bias = None if bias_HTT is None else bias_HTT.unsqueeze(0)
            if seen_BT is not None:
                hidden = _hide(seen_BT)[:, None, None]
                bias = hidden if bias is None else bias + hidden
            y_HBTQ = self._attend_sdpa(q_HBTQ, k_HBTQ, v_HBTQ, bias)
        return self.out(y_HBTQ.permute(1, 2, 0, 3).reshape(B, T, H * Q))

    def _attend_sdpa(
        self, q_HBTQ: Tensor, k_HBTQ: Tensor, v_HBTQ: Tensor, bias: Tensor | None
    ) -> Tensor:
        q, k, v = (t.transpose(0, 1) for t in (q_HBTQ, k_HBTQ, v_HBTQ))
        if bias is not None:  # it hides what comes later, too
            bias = bias.to(q.dtype)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale)
        return y.transpose(0, 1)

    def shrink_queries(self) -> None:
        """Take into fresh weights what scores are not divided by."""
        if not self.scale_scores:
            self.qkv.weight[: self.H * self.Q].mul_(self.Q**-0.5)


class CrossAttention(nn.Module):
    """Attention of a decoder's positions over an encoder's, which have none in order: no positions enter."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        s = shape
        self.H, self.G, self.Q, self.scale = s.heads, s.kv_heads, s.head_size, s.score_scale
        self.scale_scores = s.scale_scores
        self.q = nn.Linear(s.width, s.heads * s.head_size, bias=s.bias)
        self.kv = nn.Linear(s.width, 2 * s.kv_heads * s.head_size, bias=s.bias)
        self.out = _writer(s.heads * s.head_size, s.width, s.bias)

    def forward(
        self,
        x_BTD: Tensor,
        memory_BSD: Tensor,
        *,
        seen_BS: Tensor | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:
        """Return what attention adds [B, T, D]; `seen_BS`: positions of the encoder to look at."""
        B, T, _ = x_BTD.shape
        q_BHTQ = self.q(x_BTD).view(B, T, self.H, self.Q).transpose(1, 2)
        if past is None:
            k_BHSQ, v_BHSQ = self.look(memory_BSD)
        else:  # a source stays the same while its answer is written
            k_BHSQ, v_BHSQ = past.source = past.source or self.look(memory_BSD)
        mask = None if seen_BS is None else seen_BS[:, None, None]
        y_BHTQ = F.scaled_dot_product_attention(
            q_BHTQ, k_BHSQ, v_BHSQ, attn_mask=mask, scale=self.scale
        )
        return self.out(y_BHTQ.transpose(1, 2).reshape(B, T, self.H * self.Q))

    def look(self, memory_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of a source, each [B, H, S, Q]."""
        B, S, _ = memory_BSD.shape
        kv_BSGQ = self.kv(memory_BSD).view(B, S, 2 * self.G, self.Q)
        k_BHSQ, v_BHSQ = (
            t.repeat_interleave(self.H // self.G, dim=1)
            for t in kv_BSGQ.transpose(1, 2).split(self.G, dim=1)
        )
        return k_BHSQ, v_BHSQ

    def shrink_queries(self) -> None:
        """Take into fresh weights what scores are not divided by."""
        if not self.scale_scores:
            self.q.weight.mul_(self.Q**-0.5)


class CrossBlock(Block):
    """A decoder's layer that reads an encoder: self-attention, cross-attention, feed-forward."""

    def __init__(self, shape: ModelShape, attention: str, recompute: bool = False) -> None:
        super().__init__(shape, attention, recompute)
        self.cross_norm = build_norm(shape)
        self.cross = CrossAttention(shape)

    def forward(  # type: ignore[override]
        self,
        x_BTD: Tensor,
        turn_TQ2: Tensor | None,
        memory_BSD: Tensor,
        *,
        bias_HTT: Tensor | None = None,
        seen_BS: Tensor | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:
        """Return the stream behind the layer; arguments as of both attentions."""
        if past is not None:
            return self._read(x_BTD, turn_TQ2, memory_BSD, bias_HTT, seen_BS, past)
        if self.recompute and torch.is_grad_enabled():
            return _recomputed(self._read, x_BTD, turn_TQ2, memory_BSD, bias_HTT, seen_BS)
        return self._read(x_BTD, turn_TQ2, memory_BSD, bias_HTT, seen_BS)

    def _read(
        self,
        x_BTD: Tensor,
        turn_TQ2: Tensor | None,
        memory_BSD: Tensor,
        bias_HTT: Tensor | None = None,
        seen_BS: Tensor | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:
        given: dict[str, Any] = {"bias_HTT": bias_HTT, "past": past}
        across: dict[str, Any] = {"seen_BS": seen_BS, "past": past}
        if self.post:
            x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD, turn_TQ2, **given))
            x_BTD = self.cross_norm(x_BTD + self.cross(x_BTD, memory_BSD, **across))
            after: Tensor = self.ffn_norm(x_BTD + self.ffn(x_BTD))
            return after
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), turn_TQ2, **given)
        x_BTD = x_BTD + self.cross(self.cross_norm(x_BTD), memory_BSD, **across)
        return x_BTD + self.ffn(self.ffn_norm(x_BTD))


class FeedForward(nn.Module):
    """down(activation(up(x))); gated ones are down(activation(gate(x)) · up(x))."""

    def __init__(self, shape: ModelShape, *, native: bool = False) -> None:
        super().__init__()
        self.activation, self.native = shape.activation, native
        # two matrices, not one of double width: halves of a row are slow to multiply on CPU
        self.gate = (
            nn.Linear(shape.width, shape.ffn, bias=shape.bias)
            if shape.activation in GATED
            else None
        )
        self.up = nn.Linear(shape.width, shape.ffn, bias=shape.bias)
        self.down = _writer(shape.ffn, shape.width, shape.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        h_BTF = self.up(x_BTD)
        if self.native and self.activation in ("gelu", "swiglu") and suits_native(h_BTF):
            gate_BTF, up_BTF = (h_BTF, None) if self.gate is None else (self.gate(x_BTD), h_BTF)
            return self.down(fused.activate(gate_BTF, up_BTF, kind=self.activation))
        if self.gate is not None:  # Shazeer 2020, arXiv:2002.05202
            return self.down(activate(self.gate(x_BTD), self.activation) * h_BTF)
        return self.down(activate(h_BTF, self.activation))


def _recomputed(part: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """Return what a part of a layer gives; what is inside is computed again in the backward pass.

    No random numbers are drawn in a block, so their state need not be kept.
    """
    out: Tensor = checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
    return out


def activate(x: Tensor, kind: str) -> Tensor:
    """Return the activation of each number; of a gated kind, what it does to the gate."""
    if kind == "swiglu":
        return F.silu(x)
    if kind in ("gelu", "geglu"):
        return F.gelu(x, approximate="tanh")  # GPT-2's form
    if kind == "gelu_exact":
        return F.gelu(x)
    # relu2: So et al. 2021, arXiv:2109.08668
    return F.relu(x).square() if kind == "relu2" else F.relu(x)


class HeadTransform(nn.Module):
    """norm(activation(dense(x))), between the last layer and the output head.

    Source: Devlin et al. 2019, arXiv:1810.04805, as released.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.activation = shape.activation
        self.dense = nn.Linear(shape.width, shape.width, bias=shape.bias)
        self.norm = build_norm(shape)

    def forward(self, x: Tensor) -> Tensor:
        transformed: Tensor = self.norm(activate(self.dense(x), self.activation))
        return transformed


def _two_sided(kernel: str, s: ModelShape) -> str:
    """The kernel that looks both ways where one was asked for: the compiled one cannot."""
    if kernel != "native":
        return kernel
    return "matmul" if s.context <= SHORT else "sdpa"


def _mask(s: ModelShape, causal: bool) -> Tensor:
    """Return what is added to the scores of every pair of positions."""
    length = s.positions
    if not causal:
        return torch.zeros(length, length)
    return torch.full((length, length), -math.inf).triu(1)


def _hide(seen_BT: Tensor) -> Tensor:
    """Return what is added to the scores of each position, so that only some are looked at [B, T]."""
    return torch.zeros(seen_BT.shape, device=seen_BT.device).masked_fill(~seen_BT, -math.inf)


def _writer(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    """A matrix that writes to the residual stream; `init_weights` draws it smaller."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    linear.writes_residual = True  # type: ignore[assignment]
    return linear


def suits_native(x: Tensor, *, stream: bool = False) -> bool:
    """Whether the compiled kernels take this tensor: on the CPU, not float64, not being traced.

    The residual stream must be float32; that of a model cast to bfloat16 is not.
    """
    kinds = (torch.float32,) if stream else (torch.float32, torch.bfloat16)
    return x.is_cpu and x.dtype in kinds and not torch.compiler.is_compiling()


def add_norm(x: Tensor, delta: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return x + delta and its norm by the compiled kernel; `norm` holds gain and shift."""
    of_stack = getattr(norm, "add_norm", None)  # K norms; see stacked.py
    if of_stack is not None:
        added: tuple[Tensor, Tensor] = of_stack(x, delta)
        return added
    assert isinstance(norm, RmsNorm | nn.LayerNorm) and isinstance(norm.weight, Tensor)
    centred = isinstance(norm, nn.LayerNorm)
    bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
    return fused.add_norm(x, delta, norm.weight, bias, eps=norm.eps, centred=centred)


def build_norm(shape: ModelShape) -> nn.Module:
    if shape.norm == "rmsnorm":
        return RmsNorm(shape.width, eps=shape.norm_eps)
    return nn.LayerNorm(shape.width, eps=shape.norm_eps, bias=shape.bias)


def sinusoids(shape: ModelShape) -> Tensor:
    """Return the fixed position table [T, D], at the scale of a fresh token table.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    exponent_D = torch.arange(shape.width) // 2 * 2 / shape.width
    angle_TD = torch.outer(torch.arange(shape.positions).float(), 10_000.0**-exponent_D)
    even_D = torch.arange(shape.width) % 2 == 0
    return torch.where(even_D, angle_TD.sin(), angle_TD.cos()) * math.sqrt(2) * TABLE_STD


def distance_table(shape: ModelShape) -> nn.Parameter | None:
    """Return the table of relative positions of one stack, where there is one."""
    if shape.position != "relative":
        return None
    return nn.Parameter(torch.empty(BUCKETS, shape.heads))


def distance_bias(
    table_CH: Tensor, length: int, *, causal: bool, last: int | None = None
) -> Tensor:
    """Return what is added to the scores [H, T, S] of every pair of positions, by their distance.

    Args:
        table_CH: the bias of each class of distances and each head.
        length: positions that are looked at, S.
        causal: later positions get minus infinity.
        last: the positions that look, T, are the last ones; null: all.
    """
    rows = length if last is None else last
    later_L = torch.arange(1 - length, rows, device=table_CH.device)
    bias_HL = table_CH[distance_class(later_L, causal=causal)].T
    # position t looks at those from t earlier to S - 1 - t later: windows of L, the last one first
    bias_HTS = bias_HL.unfold(1, length, 1).flip(1)
    if not causal:
        return bias_HTS
    ahead_TS = torch.ones(rows, length, dtype=torch.bool, device=table_CH.device)
    return bias_HTS.masked_fill(ahead_TS.triu(1 + length - rows), -math.inf)


def distance_class(later: Tensor, *, causal: bool) -> Tensor:
    """Return the class, 0 to BUCKETS - 1, of positions that lie so much later (negative: earlier).

    Half the classes are of one distance each; the others grow as powers, up to FARTHEST, from where
    on all is one class. Seeing both sides, each side has half of the classes.

    Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1; sizes as released.
    """
    classes = BUCKETS if causal else BUCKETS // 2
    side = torch.zeros_like(later) if causal else (later > 0).long() * classes
    distance = (-later).clamp(min=0) if causal else later.abs()
    single = classes // 2
    share = (distance.clamp(min=1).float() / single).log() / math.log(FARTHEST / single)
    grown = single + (share * (classes - single)).long()
    return side + torch.where(distance < single, distance, grown.clamp(max=classes - 1))


def rotary_table(shape: ModelShape) -> Tensor:
    """Return cos and sin [T, Q/2, 2] of the angle by which a position turns each pair of channels.

    Channels 2i and 2i+1 are a pair, so that a pair is one complex number.

    Source: Su et al. 2021, arXiv:2104.09864.
    """
    exponent_Q = torch.arange(0, shape.head_size, 2, dtype=torch.float32) / shape.head_size
    angle_TQ = torch.outer(torch.arange(shape.positions).float(), shape.rotary_base**-exponent_Q)
    return torch.stack([angle_TQ.cos(), angle_TQ.sin()], -1)


def rotate(x_HBTQ: Tensor, turn_TQ2: Tensor) -> Tensor:
    """Turn each pair of channels by its position's angle, in float32."""
    pairs = x_HBTQ.float().unflatten(-1, (-1, 2))
    if (
        x_HBTQ.is_cpu and not torch.compiler.is_compiling()
    ):  # one pass; the compiler knows no complex
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turn_TQ2))
    else:
        (a, b), (cos, sin) = pairs.unbind(-1), turn_TQ2.unbind(-1)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1)
    return turned.flatten(-2).to(x_HBTQ.dtype)
