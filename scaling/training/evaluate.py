"""Validation: mean loss over fixed held-out tokens, with its standard error."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from scaling.training.data import TokenData

EVAL_TOKENS = {"cpu": 4096, "cuda": 65_536}  # tokens per forward pass: fits the cache, fills a GPU


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on the held-out tokens.

    Units: losses and standard errors in nats/token; excess is loss minus the true source's loss
    on the same tokens, null where the source is not known.
    """

    loss: float
    loss_se: float | None
    tokens: int
    bits_per_byte: float | None
    true_loss: float | None = None
    excess: float | None = None
    excess_se: float | None = None

    @property
    def perplexity(self) -> float | None:
        """exp(loss); null where it is beyond floating point."""
        return math.exp(self.loss) if self.loss < 700 else None


def evaluate(
    model: nn.Module,
    data: TokenData,
    *,
    context: int,
    autocast: Callable[[], AbstractContextManager] = contextlib.nullcontext,
) -> Evaluation:
    """Score every held-out token once, in sequences of `context` tokens.

    The standard error takes a sequence as the unit, because losses within one are correlated.

    Args:
        model: returns per-token losses for (inputs, targets, reduction="none").
        data: held-out tokens and, where known, their true log-probabilities.
        context: tokens per sequence.
        autocast: gives the precision context that the run trains in.
    """
    device = next(model.parameters()).device
    batch_seqs = max(1, EVAL_TOKENS.get(device.type, 4096) // context)
    losses, truths = [], []
    model.eval()
    with torch.inference_mode():
        for inputs, targets, first in data.val_batches(context=context, batch_seqs=batch_seqs):
            x, y = (torch.as_tensor(a).to(device) for a in (inputs, targets))
            with autocast():
                loss_BT = model(x, y, reduction="none")
            losses.append(loss_BT.double().mean(1).cpu().numpy())
            if data.true_logprob is not None:
                index = np.asarray(first)[:, None] + np.arange(inputs.shape[1])
                truths.append(-data.true_logprob[index].astype(np.float64).mean(1))
    model.train()
    return summarise(
        np.concatenate(losses),
        np.concatenate(truths) if truths else None,
        data.bytes_per_token,
        context,
    )


def summarise(
    losses: np.ndarray, truths: np.ndarray | None, bytes_per_token: float | None, context: int
) -> Evaluation:
    """Turn mean losses per sequence [sequences] into an evaluation."""
    loss = float(losses.mean())
    per_byte = loss / math.log(2) / bytes_per_token if bytes_per_token else None
    gaps = None if truths is None else losses - truths
    return Evaluation(
        loss=loss,
        loss_se=_standard_error(losses),
        tokens=len(losses) * context,
        bits_per_byte=per_byte,
        true_loss=None if truths is None else float(truths.mean()),
        excess=None if gaps is None else float(gaps.mean()),
        excess_se=None if gaps is None else _standard_error(gaps),
    )


def _standard_error(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
