"""Batch, learning rate and weight decay as pure functions of (N, D).

The same plan on 1, 8 or 64 devices trains the same run. The constants are checked at the scale of
the embedded sweeps by `sweeps/check_lr.yaml` (2k to 60k parameters), `sweeps/check_lr_large.yaml`
(100k and 172k) and `sweeps/check_batch.yaml`, with figures in docs/hyperparameters.md; at other
scales they are where a search starts.
"""

from __future__ import annotations

WEIGHT_DECAY = 0.1  # Brown et al. 2020 (GPT-3, arXiv:2005.14165), Touvron et al. 2023 (Llama)


def batch_tokens_rule(tokens: float) -> float:
    """Return the global batch in tokens: 0.29 D^0.571.

    Source: the exponent of Li et al. 2025 ("Step Law", arXiv:2503.04715), who find 0.58 D^0.571
    from 60M to 1B parameters; half of it is better at the embedded scale.
    """
    return 0.29 * tokens**0.571


def learning_rate_rule(params: float, tokens: float) -> float:
    """Return AdamW's peak learning rate: 0.0045 (N / 1e5)^-0.37, whatever the tokens.

    Source: lowest losses of the embedded learning-rate check.
    """
    return 0.0045 * (params / 1e5) ** -0.37


def weight_decay_rule(params: float, tokens: float) -> float:
    """Return decoupled weight decay, which the embedded check finds flat around its usual value."""
    return WEIGHT_DECAY


def timescale_rule(params: float, tokens: float) -> float:
    """Return how much of a run AdamW's weights are a mean over: 1.084 (D / N)^-0.527.

    Decay forgets old steps: weights are a moving mean of updates over 1 / (lr weight_decay) steps
    (Wang and Aitchison 2024, arXiv:2405.13698). This is that number as a share of all steps.

    Source: Bergsma et al. 2025 ("Power Lines", arXiv:2505.13738), 111M to 3.3B parameters under
    muP, all parameters counted, linear decay to zero.
    """
    return 1.084 * (tokens / params) ** -0.527


def timescale_decay_rule(params: float, tokens: float, *, batch_tokens: float, lr: float) -> float:
    """Return the weight decay that gives the timescale above: B / (lr tau D).

    Chosen by `optim.weight_decay=timescale`; see docs/hyperparameters.md for when it helps.
    """
    return batch_tokens / (lr * timescale_rule(params, tokens) * tokens)
