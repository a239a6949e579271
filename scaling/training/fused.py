"""Differentiable forms of the compiled kernels: attention, norms, activations, loss.

Each does in one or two passes over the data what autograd does in many. They take float32 or
bfloat16 on the CPU, follow autocast as torch's own functions do, and give what those give, to
rounding. `native.is_available` says whether they can be used.

Shapes in names: B sequences, T positions, D width, H query heads, G key-value heads, Q head size,
F feed-forward width, N tokens, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scaling.training import native

_ACTIVATIONS = {"gelu": 0, "swiglu": 1}


def attend(
    qkv_BTE: Tensor,
    turn_TQ2: Tensor | None,
    *,
    heads: int,
    kv_heads: int,
    head_size: int,
    scale: float | None = None,
) -> Tensor:
    """Return causal attention straight from the joint projection, without copies or T x T scores.

    Each query's probabilities are formed in a cache-sized block and never written to memory; the
    backward pass forms them again from their log-sum (Dao et al. 2022, arXiv:2205.14135). Blocks
    of keys after a query are skipped, so that about half of the products are left out.

    Args:
        qkv_BTE: E = (H + 2G) Q channels: query heads, then key heads, then value heads.
        turn_TQ2: cos and sin [T, Q/2, 2] by which channels 2i and 2i+1 are turned; null: not.
        heads, kv_heads, head_size: H, G, Q.
        scale: of the scores; null: 1 / sqrt(Q).

    Returns:
        [B, T, H Q], contiguous.
    """
    if scale is None:
        scale = 1 / math.sqrt(head_size)
    out: Tensor = _Attend.apply(qkv_BTE, turn_TQ2, scale, (heads, kv_heads, head_size))
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv_BTE: Tensor,
        turn_TQ2: Tensor | None,
        scale: float,
        sizes: tuple[int, int, int],
    ) -> Tensor:
        (B, T, _), (H, G, Q) = qkv_BTE.shape, sizes
        qkv_BTE = qkv_BTE.contiguous()
        turn_TQ2 = None if turn_TQ2 is None else turn_TQ2.float().contiguous()
        out_BTE = qkv_BTE.new_empty(B, T, H * Q)
        lse_BHT = qkv_BTE.new_empty(B, H, T, dtype=torch.float32)
        native.call(
            "attention_forward", qkv_BTE.dtype, qkv_BTE, out_BTE, lse_BHT, turn_TQ2, scale, T, H, G, Q,
            count=B * G,
        )  # fmt: skip
        ctx.save_for_backward(qkv_BTE, out_BTE, lse_BHT, turn_TQ2)
        ctx.scale, ctx.sizes = scale, (B, T, H, G, Q)
        return out_BTE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (g_BTE,) = grads
        qkv_BTE, out_BTE, lse_BHT, turn_TQ2 = ctx.saved_tensors
        B, T, H, G, Q = ctx.sizes
        dqkv_BTE = torch.empty_like(qkv_BTE)
        native.call(
            "attention_backward", qkv_BTE.dtype, qkv_BTE, out_BTE, lse_BHT, g_BTE.contiguous(), dqkv_BTE,
            turn_TQ2, ctx.scale, T, H, G, Q, count=B * G,
        )  # fmt: skip
        return dqkv_BTE, None, None, None


def add_norm(
    x: Tensor,
    delta: Tensor | None,
    weight_D: Tensor,
    bias_D: Tensor | None,
    *,
    eps: float,
    centred: bool,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Add to the residual stream and normalise the sum, in two passes over memory.

    Args:
        x: the residual stream [..., D], float32.
        delta: what is added, in the precision of products; null: nothing.
        weight_D, bias_D: the norm's gain and shift; [K, D] if K models' rows follow one another.
        eps: added to the mean square or variance.
        centred: layer norm (subtracts the mean), not RMS norm.
        scale: factor of delta.

    Returns:
        x + scale · delta (float32), and its norm in the precision of products.
    """
    narrow = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if delta is not None:
        delta = delta.to(narrow).contiguous()
    total, y = _AddNorm.apply(x.contiguous(), delta, weight_D, bias_D, eps, centred, scale, narrow)
    return total, y


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor | None, weight_D: Tensor, bias_D: Tensor | None, eps: float,
        centred: bool, scale: float, dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        D = x.shape[-1]
        rows = x.numel() // D
        total = x if delta is None else torch.empty_like(x)
        y = torch.empty_like(x, dtype=dtype)
        mean_N, inverse_N = x.new_empty(2, rows)
        gains_KD, shifts_KD = _by_model(weight_D), _by_model(bias_D)
        native.call(
            "norm_forward", dtype, x, delta, scale, gains_KD, shifts_KD, eps, int(centred), total, y, mean_N,
            inverse_N, D, count=rows, groups=_groups(weight_D),
        )  # fmt: skip
        ctx.save_for_backward(total, weight_D, mean_N, inverse_N)
        ctx.rest = (dtype, scale, centred, delta is not None, bias_D is not None)
        return total.view_as(total), y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        dtotal, dy = grads
        total, weight_D, mean_N, inverse_N = ctx.saved_tensors
        dtype, scale, centred, added, shifted = ctx.rest
        D, rows = total.shape[-1], mean_N.shape[0]
        dx = torch.empty_like(total)
        ddelta = torch.empty_like(total, dtype=dtype) if added else None
        dtotal = None if dtotal is None else dtotal.contiguous()
        dy = torch.zeros_like(total, dtype=dtype) if dy is None else dy.contiguous()
        K = _groups(weight_D)
        dgains_PK2D = total.new_zeros(native.parts(rows // K), K, 2, D)
        native.call(
            "norm_backward", dtype, dy, dtotal, total, _by_model(weight_D), mean_N, inverse_N, scale, int(centred),
            int(shifted), dx, ddelta, native.Each(dgains_PK2D), D, count=rows, groups=K,
        )  # fmt: skip
        dweight_KD, dbias_KD = dgains_PK2D.sum(0).unbind(1)
        dweight, dbias = dweight_KD.view(weight_D.shape), dbias_KD.view(weight_D.shape)
        return dx, ddelta, dweight, dbias if shifted else None, None, None, None, None


def _groups(weight: Tensor) -> int:
    return len(weight) if weight.dim() == 2 else 1


def _by_model(weight: Tensor | None) -> native.Argument:
    return native.OfGroup(weight) if weight is not None and weight.dim() == 2 else weight


def activate(gate: Tensor, up: Tensor | None, *, kind: str) -> Tensor:
    """Return gelu(gate) in the tanh form, or silu(gate) · up.

    Args:
        gate, up: tensors of one shape and type; up is null for `gelu`.
        kind: `gelu` or `swiglu`.
    """
    out: Tensor = _Activate.apply(gate.contiguous(), None if up is None else up.contiguous(), kind)
    return out


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor | None, kind: str) -> Tensor:
        out = torch.empty_like(gate)
        native.call(
            "act_forward", gate.dtype, gate, up, out, _ACTIVATIONS[kind], count=gate.numel()
        )
        ctx.save_for_backward(gate, up)
        ctx.kind = kind
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        gate, up = ctx.saved_tensors
        dgate = torch.empty_like(gate)
        dup = None if up is None else torch.empty_like(up)
        native.call(
            "act_backward", gate.dtype, gate, up, grads[0].contiguous(), dgate, dup, _ACTIVATIONS[ctx.kind],
            count=gate.numel(),
        )  # fmt: skip
        return dgate, dup, None


def cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Return the loss of each token in nats [N], float32, whatever the logits are in.

    Sums are float32 and no float32 copy of the logits is made.
    """
    loss_N: Tensor = _CrossEntropy.apply(logits_NV.contiguous(), targets_N.contiguous())
    return loss_N


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        N, V = logits_NV.shape
        loss_N, lse_N = torch.empty(2, N)
        native.call(
            "loss_forward", logits_NV.dtype, logits_NV, targets_N, loss_N, lse_N, V, count=N
        )
        ctx.save_for_backward(logits_NV, targets_N, lse_N)
        return loss_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits_NV, targets_N, lse_N = ctx.saved_tensors
        N, V = logits_NV.shape
        dlogits_NV = torch.empty_like(logits_NV)
        native.call(
            "loss_backward", logits_NV.dtype, logits_NV, targets_N, lse_N, grads[0].contiguous(), dlogits_NV, V,
            count=N,
        )  # fmt: skip
        return dlogits_NV, None
