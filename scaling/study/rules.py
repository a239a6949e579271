"""Batch, learning rate and weight decay as pure functions of (N, D).

The same plan on 1, 8 or 64 devices trains the same run. The constants are checked at the scale of
the embedded sweeps by `sweeps/check_lr.yaml`; at other scales treat them as the start of a search.
"""

from __future__ import annotations


def batch_tokens_rule(tokens: float) -> float:
    """Return the global batch in tokens: 0.58 D^0.571.

    Source: Li et al. 2025 ("Step Law", arXiv:2503.04715), fitted from 60M to 1B parameters.
    """
    return 0.58 * tokens**0.571


def learning_rate_rule(params: float, tokens: float) -> float:
    """Return AdamW's peak learning rate for N parameters and D tokens."""
    return 0.0045 * (params / 1e5) ** -0.37


def weight_decay_rule(lr: float, batch_tokens: float, tokens: float, params: float) -> float:
    """Return decoupled weight decay."""
    return 0.1
