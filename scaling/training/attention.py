"""Causal attention as plain matrix products, with its own backward pass: the CPU's kernel.

At the short contexts and small heads of small models torch's fused kernel leaves most of a core
idle. Two things help. Products run as `v' p'` with the head size as rows, because a product with
fewer than 32 columns falls off the fast path (measured: 3 to 4 times at head size 10). And the
backward pass takes the row sums of dP·P as row sums of dO·O (Dao et al. 2022, arXiv:2205.14135,
appendix B.2), which saves two passes over the T x T scores.

Shapes in names: N sequences x heads, T positions, Q head size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class _MatmulAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_NTQ: Tensor, k_NTQ: Tensor, v_NTQ: Tensor, mask_TT: Tensor) -> Tensor:
        scale = 1 / math.sqrt(q_NTQ.shape[-1])
        scores_NTT = torch.baddbmm(mask_TT, q_NTQ, k_NTQ.transpose(1, 2), alpha=scale)
        p_NTT = scores_NTT.softmax(-1)
        out_NQT = torch.bmm(v_NTQ.transpose(1, 2), p_NTT.transpose(1, 2))
        ctx.save_for_backward(q_NTQ, k_NTQ, v_NTQ, p_NTT, out_NQT)
        return out_NQT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (g_NQT,) = grads
        q_NTQ, k_NTQ, v_NTQ, p_NTT, out_NQT = ctx.saved_tensors
        scale = 1 / math.sqrt(q_NTQ.shape[-1])
        g_NQT = g_NQT.contiguous()
        dv_NQT = torch.bmm(g_NQT, p_NTT)
        rows_NT1 = (g_NQT * out_NQT).sum(1).unsqueeze(-1)
        ds_NTT = torch.baddbmm(rows_NT1, g_NQT.transpose(1, 2), v_NTQ.transpose(1, 2), beta=-1)
        ds_NTT.mul_(p_NTT)
        dq_NQT = torch.baddbmm(
            dv_NQT, k_NTQ.transpose(1, 2), ds_NTT.transpose(1, 2), beta=0, alpha=scale
        )
        dk_NQT = torch.baddbmm(dv_NQT, q_NTQ.transpose(1, 2), ds_NTT, beta=0, alpha=scale)
        dq, dk, dv = (t.transpose(1, 2) for t in (dq_NQT, dk_NQT, dv_NQT))
        return dq, dk, dv, None


def attend_matmul(q_HBTQ: Tensor, k_HBTQ: Tensor, v_HBTQ: Tensor, mask_TT: Tensor) -> Tensor:
    """Return softmax(q k' / sqrt(Q) + mask) v for every head and sequence.

    Args:
        q_HBTQ, k_HBTQ, v_HBTQ: queries, keys and values, of one data type.
        mask_TT: 0 where a position may look, minus infinity where not.

    Returns:
        [H, B, T, Q], not contiguous.
    """
    H, B, T, Q = q_HBTQ.shape
    q, k, v = (t.reshape(H * B, T, Q) for t in (q_HBTQ, k_HBTQ, v_HBTQ))
    out_NQT: Tensor = _MatmulAttention.apply(q, k, v, mask_TT.to(q.dtype))
    return out_NQT.view(H, B, Q, T).transpose(2, 3)
