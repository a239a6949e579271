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
from torch.utils.checkpoint import checkpoint

from scaling.study.parametrization import STANDARD, Parametrization
from scaling.study.shape import ModelShape
from scaling.training import fused
from scaling.training.direct import Direct, suits_direct
from scaling.training.kernels import RmsNorm, attend_matmul
from scaling.training.loss import chunked_cross_entropy, needs_chunks

# Standard deviation of token and position tables: what a fresh block adds has entries of this order
# at any width, so that neither drowns the other. Measured on the embedded text, widths 36 to 112,
# 400 steps, two seeds each: 0.25 and 0.5 are best and equal within 0.01 nats; 0.02 loses 0.05 to
# 0.12 nats, 1.0 loses up to 0.03. Width 20 is flat from 0.1 to 1.
TABLE_STD = 0.3


class Transformer(nn.Module):
    """Tokens in, next-token logits or loss out.

    Args:
        shape: sizes and parts.
        attention: `native` (compiled here for this CPU, with norms, activations and loss to match),
            `sdpa` (torch's fused kernel) or `matmul` (plain matrix products). All give the same
            numbers to rounding.
        recompute: keep each block's input only and compute its inside again in the backward pass.

    Build it under `torch.device("meta")` to count parameters without memory.
    """

    turn_TQ2: Tensor | None
    wave_TD: Tensor | None

    def __init__(
        self, shape: ModelShape, *, attention: str = "sdpa", recompute: bool = False
    ) -> None:
        super().__init__()
        self.shape, self.native = shape, attention == "native"
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.position = (
            nn.Parameter(torch.empty(shape.context, shape.width))
            if shape.position == "learned"
            else None
        )
        self.blocks = nn.ModuleList(Block(shape, attention, recompute) for _ in range(shape.layers))
        self.norm = _norm(shape)
        self.head = nn.Linear(shape.width, shape.vocab, bias=False)
        if shape.tied:
            self.head.weight = self.embedding.weight
        table = _rotary_table(shape) if shape.position == "rotary" else None
        self.register_buffer("turn_TQ2", table, persistent=False)
        wave = _sinusoids(shape) if shape.position == "sinusoidal" else None
        self.register_buffer("wave_TD", wave, persistent=False)

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor | None = None, *, reduction: str = "mean"
    ) -> Tensor:
        """Return logits [B, T, V]; with targets, the cross-entropy in nats per token.

        Args:
            tokens_BT: token indices, T at most the context.
            targets_BT: the token that follows each of them.
            reduction: `mean` gives one number, `none` one per token [B, T].
        """
        T = tokens_BT.shape[1]
        if targets_BT is not None and reduction == "none" and self._can_score(tokens_BT):
            narrow = torch.is_autocast_enabled("cpu")
            dtype = torch.get_autocast_dtype("cpu") if narrow else torch.float32
            return Direct(self, dtype).score(tokens_BT, targets_BT)
        x_BTD = self.embedding(tokens_BT)
        if self.position is not None:
            x_BTD = x_BTD + self.position[:T]
        elif self.wave_TD is not None:
            x_BTD = x_BTD + self.wave_TD[:T]
        turn_TQ2 = None if self.turn_TQ2 is None else self.turn_TQ2[:T]
        for block in self.blocks:
            x_BTD = block(x_BTD, turn_TQ2)
        native = self.native and _suits_native(x_BTD, stream=True)
        h_BTD = _add_norm(x_BTD, None, self.norm)[1] if native else self.norm(x_BTD)
        large = needs_chunks(tokens_BT.numel(), self.shape.vocab)
        if targets_BT is not None and reduction == "mean" and large:
            return chunked_cross_entropy(
                h_BTD.flatten(0, 1), self.head.weight, targets_BT.flatten()
            )
        logits_BTV = self.head(h_BTD)
        if targets_BT is None:
            return logits_BTV
        if native:
            loss_N = fused.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
            return loss_N.mean() if reduction == "mean" else loss_N.view_as(targets_BT)
        # a sum over V in bfloat16 would cost about 0.01 nats of precision
        loss = F.cross_entropy(
            logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction=reduction
        )
        return loss if reduction == "mean" else loss.view_as(targets_BT)

    def _can_score(self, tokens_BT: Tensor) -> bool:
        """Whether losses without gradients can be taken without autograd."""
        quiet = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        return quiet and tokens_BT.is_cpu and type(self) is Transformer and suits_direct(self)

    @torch.no_grad()
    def init_weights(self, seed: int, parametrization: Parametrization = STANDARD) -> Transformer:
        """Draw every weight from `seed`, the same on every device; returns itself.

        A matrix has entries of standard deviation 1/sqrt(inputs), so that a signal keeps its size
        at any width (LeCun et al. 1998); GPT-2's 0.02 is this at width 2500. The two matrices of a
        block that write to the residual stream are smaller by sqrt(2 layers), so that depth does
        not grow it (Radford et al. 2019, section 2.3). Tables: see TABLE_STD. Another
        parametrisation multiplies these.
        """
        generator = torch.Generator().manual_seed(seed)

        names = {id(p): n for n, p in self.named_parameters()}

        def draw(weight: Tensor, std: float) -> None:
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)

        def factor(weight: Tensor) -> float:
            return parametrization.factors(names[id(weight)]).init

        residual = 1 / math.sqrt(2 * self.shape.layers)
        # a tied table is also the head, and must not make logits larger than order 1
        width = self.shape.width / parametrization.width
        table_std = min(TABLE_STD, 1 / math.sqrt(width)) if self.shape.tied else TABLE_STD
        draw(self.embedding.weight, table_std)
        if isinstance(self.position, nn.Parameter):
            draw(self.position, table_std)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.weight is not self.embedding.weight:
                scale = residual if getattr(module, "writes_residual", False) else 1.0
                draw(module.weight, factor(module.weight) * scale / math.sqrt(module.in_features))
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, (RmsNorm, nn.LayerNorm)):
                module.reset_parameters()
                if module is self.norm:
                    module.weight.mul_(factor(module.weight))
        return self


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to the residual stream."""

    def __init__(self, shape: ModelShape, attention: str, recompute: bool = False) -> None:
        super().__init__()
        self.recompute, self.native = recompute, attention == "native"
        self.attention_norm = _norm(shape)
        self.attention = Attention(shape, attention)
        self.ffn_norm = _norm(shape)
        self.ffn = FeedForward(shape, native=self.native)

    def forward(self, x_BTD: Tensor, turn_TQ2: Tensor | None) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            # no random numbers are drawn in a block, so their state need not be kept
            again: Tensor = checkpoint(
                self._add, x_BTD, turn_TQ2, use_reentrant=False, preserve_rng_state=False
            )
            return again
        return self._add(x_BTD, turn_TQ2)

    def _add(self, x_BTD: Tensor, turn_TQ2: Tensor | None) -> Tensor:
        if self.native and _suits_native(x_BTD, stream=True):
            x_BTD, h_BTD = _add_norm(x_BTD, None, self.attention_norm)
            x_BTD, h_BTD = _add_norm(x_BTD, self.attention(h_BTD, turn_TQ2), self.ffn_norm)
            return x_BTD + self.ffn(h_BTD)
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), turn_TQ2)
        return x_BTD + self.ffn(self.ffn_norm(x_BTD))


class Attention(nn.Module):
    """Causal self-attention with H query heads sharing G key and value heads."""

    mask_TT: Tensor

    def __init__(self, shape: ModelShape, kernel: str) -> None:
        super().__init__()
        s = shape
        self.H, self.G, self.Q, self.kernel = s.heads, s.kv_heads, s.head_size, kernel
        self.scale = s.attention_scale
        self.qkv = nn.Linear(s.width, (s.heads + 2 * s.kv_heads) * s.head_size, bias=s.bias)
        self.out = _writer(s.heads * s.head_size, s.width, s.bias)
        self.qk_norm = s.qk_norm
        if s.qk_norm != "none":
            per_head = s.qk_norm == "head"
            self.q_norm = RmsNorm(s.head_size * (1 if per_head else s.heads), eps=s.norm_eps)
            self.k_norm = RmsNorm(s.head_size * (1 if per_head else s.kv_heads), eps=s.norm_eps)
        mask_TT = (
            torch.full((s.context, s.context), -math.inf).triu(1) if kernel == "matmul" else None
        )
        self.register_buffer("mask_TT", mask_TT, persistent=False)

    def forward(self, x_BTD: Tensor, turn_TQ2: Tensor | None) -> Tensor:
        B, T, _ = x_BTD.shape
        H, G, Q = self.H, self.G, self.Q
        qkv = self.qkv(x_BTD)
        if self.qk_norm == "full":
            q, k, v = qkv.split([H * Q, G * Q, G * Q], dim=-1)
            qkv = torch.cat([self.q_norm(q), self.k_norm(k), v], dim=-1)
        if self.kernel == "native" and self.qk_norm != "head" and _suits_native(qkv):
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
            qk_HBTQ = _rotate(qk_HBTQ, turn_TQ2)
        q_HBTQ, k_GBTQ = qk_HBTQ.split([H, G])
        k_HBTQ, v_HBTQ = (
            t.repeat_interleave(H // G, dim=0) if G < H else t for t in (k_GBTQ, v_GBTQ)
        )
        if self.kernel == "matmul":
            mask_TT = self.mask_TT[:T, :T]
            y_HBTQ = attend_matmul(q_HBTQ, k_HBTQ, v_HBTQ, mask_TT, scale=self.scale)
        else:
            y_HBTQ = self._attend_sdpa(q_HBTQ, k_HBTQ, v_HBTQ)
        return self.out(y_HBTQ.permute(1, 2, 0, 3).reshape(B, T, H * Q))

    def _attend_sdpa(self, q_HBTQ: Tensor, k_HBTQ: Tensor, v_HBTQ: Tensor) -> Tensor:
        q, k, v = (t.transpose(0, 1) for t in (q_HBTQ, k_HBTQ, v_HBTQ))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return y.transpose(0, 1)


class FeedForward(nn.Module):
    """down(activation(up(x))); SwiGLU is down(silu(gate(x)) · up(x))."""

    def __init__(self, shape: ModelShape, *, native: bool = False) -> None:
        super().__init__()
        self.activation, self.native = shape.activation, native
        # two matrices, not one of double width: halves of a row are slow to multiply on CPU
        self.gate = (
            nn.Linear(shape.width, shape.ffn, bias=shape.bias)
            if shape.activation == "swiglu"
            else None
        )
        self.up = nn.Linear(shape.width, shape.ffn, bias=shape.bias)
        self.down = _writer(shape.ffn, shape.width, shape.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        h_BTF = self.up(x_BTD)
        if self.native and self.activation in ("gelu", "swiglu") and _suits_native(h_BTF):
            gate_BTF, up_BTF = (h_BTF, None) if self.gate is None else (self.gate(x_BTD), h_BTF)
            return self.down(fused.activate(gate_BTF, up_BTF, kind=self.activation))
        if self.gate is not None:  # Shazeer 2020, arXiv:2002.05202
            h_BTF = F.silu(self.gate(x_BTD)) * h_BTF
        elif self.activation == "gelu":
            h_BTF = F.gelu(h_BTF, approximate="tanh")  # GPT-2's form
        else:  # So et al. 2021, arXiv:2109.08668
            h_BTF = F.relu(h_BTF).square()
        return self.down(h_BTF)


def _writer(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    """A matrix that writes to the residual stream; `init_weights` draws it smaller."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    linear.writes_residual = True  # type: ignore[assignment]
    return linear


def _suits_native(x: Tensor, *, stream: bool = False) -> bool:
    """Whether the compiled kernels take this tensor: on the CPU, not float64, not being traced.

    The residual stream must be float32; that of a model cast to bfloat16 is not.
    """
    kinds = (torch.float32,) if stream else (torch.float32, torch.bfloat16)
    return x.is_cpu and x.dtype in kinds and not torch.compiler.is_compiling()


def _add_norm(x: Tensor, delta: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return x + delta and its norm by the compiled kernel; `norm` holds gain and shift."""
    of_stack = getattr(norm, "add_norm", None)  # K norms; see stacked.py
    if of_stack is not None:
        added: tuple[Tensor, Tensor] = of_stack(x, delta)
        return added
    assert isinstance(norm, RmsNorm | nn.LayerNorm) and isinstance(norm.weight, Tensor)
    centred = isinstance(norm, nn.LayerNorm)
    bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
    return fused.add_norm(x, delta, norm.weight, bias, eps=norm.eps, centred=centred)


def _norm(shape: ModelShape) -> nn.Module:
    if shape.norm == "rmsnorm":
        return RmsNorm(shape.width, eps=shape.norm_eps)
    return nn.LayerNorm(shape.width, eps=shape.norm_eps, bias=shape.bias)


def _sinusoids(shape: ModelShape) -> Tensor:
    """Return the fixed position table [T, D], at the scale of a fresh token table.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    exponent_D = torch.arange(shape.width) // 2 * 2 / shape.width
    angle_TD = torch.outer(torch.arange(shape.context, dtype=torch.float32), 10_000.0**-exponent_D)
    even_D = torch.arange(shape.width) % 2 == 0
    return torch.where(even_D, angle_TD.sin(), angle_TD.cos()) * math.sqrt(2) * TABLE_STD


def _rotary_table(shape: ModelShape) -> Tensor:
    """Return cos and sin [T, Q/2, 2] of the angle by which a position turns each pair of channels.

    Channels 2i and 2i+1 are a pair, so that a pair is one complex number.

    Source: Su et al. 2021, arXiv:2104.09864.
    """
    exponent_Q = torch.arange(0, shape.head_size, 2, dtype=torch.float32) / shape.head_size
    angle_TQ = torch.outer(
        torch.arange(shape.context, dtype=torch.float32), shape.rotary_base**-exponent_Q
    )
    return torch.stack([angle_TQ.cos(), angle_TQ.sin()], -1)


def _rotate(x_HBTQ: Tensor, turn_TQ2: Tensor) -> Tensor:
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
