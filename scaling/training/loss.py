"""Cross-entropy of a head without the logits of all tokens at once.

At a vocabulary of 50,000 the logits of 65,536 tokens are 13 GB in float32, more than the whole of a
small model. Here a few thousand tokens at a time go through the head and its gradient, in the
forward pass already, because the gradient of a mean loss needs nothing from above but one number.
No product is done twice.

Shapes in names: N tokens, C tokens of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# Whole logits up to this size in float32 cost less than the chunks' launches save; above, memory
# decides. A quarter of a GiB is 1,300 tokens of a 50,000-token vocabulary. A choice, not a measurement.
LOGITS_BYTES = 2**28


def needs_chunks(tokens: int, vocab: int) -> bool:
    """Return whether so many logits are formed in parts."""
    return 4 * tokens * vocab > LOGITS_BYTES


def chunk_tokens(vocab: int) -> int:
    """Return the tokens of one part, a multiple of 128 where that is possible."""
    most = LOGITS_BYTES // (4 * vocab)
    return max(1, most // 128 * 128 or most)


def logits_bytes(tokens: int, vocab: int, *, narrow: int) -> float:
    """Return the most memory that logits and their gradients take, in bytes.

    Args:
        tokens: of one forward pass.
        vocab: numbers per token.
        narrow: bytes of a number in products: 2 or 4.
    """
    at_once = min(tokens, chunk_tokens(vocab)) if needs_chunks(tokens, vocab) else tokens
    return float(at_once * vocab * (12 if narrow == 4 else 14))


def chunked_cross_entropy(
    h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, chunk: int | None = None
) -> Tensor:
    """Return the mean cross-entropy of softmax(h W') in nats, float32, and its exact gradients.

    Products follow autocast, as a linear layer's do; sums over the vocabulary are float32; the
    weight's gradient is summed over chunks in float32.

    Args:
        h_ND: what goes into the head.
        weight_VD: the head.
        targets_N: the right tokens.
        chunk: tokens at a time; null: as many as LOGITS_BYTES allows.
    """
    device = h_ND.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    else:
        dtype = h_ND.dtype
    chunk = chunk or chunk_tokens(weight_VD.shape[0])
    loss: Tensor = _Chunked.apply(h_ND, weight_VD, targets_N, chunk, dtype)
    return loss


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk: int, dtype: torch.dtype
    ) -> Tensor:
        N = h_ND.shape[0]
        narrow_ND, narrow_VD = h_ND.to(dtype), weight_VD.to(dtype)
        wants = any(ctx.needs_input_grad[:2])
        wide = torch.promote_types(dtype, torch.float32)
        dh_ND = torch.empty_like(narrow_ND) if wants else None
        dweight_VD = torch.zeros_like(weight_VD, dtype=wide) if wants else None
        total = torch.zeros((), dtype=wide, device=h_ND.device)
        for i in range(math.ceil(N / chunk)):
            part = slice(i * chunk, min(N, (i + 1) * chunk))
            logits_CV = (narrow_ND[part] @ narrow_VD.t()).to(wide)
            target_C1 = targets_N[part].unsqueeze(1)
            lse_C1 = logits_CV.logsumexp(1, keepdim=True)
            total += (lse_C1 - logits_CV.gather(1, target_C1)).sum()
            if dh_ND is not None and dweight_VD is not None:
                # (probabilities - one at the target) / N, in place
                p_CV = logits_CV.sub_(lse_C1).exp_()
                p_CV.scatter_add_(1, target_C1, -torch.ones_like(lse_C1))
                dlogits_CV = p_CV.div_(N).to(dtype)
                torch.mm(dlogits_CV, narrow_VD, out=dh_ND[part])
                dweight_VD += dlogits_CV.t() @ narrow_ND[part]
        if dh_ND is not None and dweight_VD is not None:
            ctx.save_for_backward(dh_ND.to(h_ND.dtype), dweight_VD.to(weight_VD.dtype))
        return total / N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        dh_ND, dweight_VD = ctx.saved_tensors
        # not in place: a second backward pass would find them changed
        return dh_ND * grads[0].to(dh_ND.dtype), dweight_VD * grads[0], None, None, None
