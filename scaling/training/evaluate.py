"""Validation: mean loss over fixed held-out tokens, with its standard error.

Losses within a document resemble each other, so that sequences of one document are no independent
draws. The standard error is taken over documents where they are known, else over blocks of
neighbouring sequences.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from scaling.study.objective import IGNORE
from scaling.training.data import HeldOut, TokenData
from scaling.training.data.dataset import Objective

# Fewer documents are no sample. On Python's library, draws of 32k tokens (7 documents) scatter by 0.128
# nats; documents state 0.115, blocks 0.053, sequences 0.028 (docs/evaluation.md).
FEW_DOCUMENTS = 4
EVAL_TOKENS = {"cpu": 4096, "cuda": 65_536}  # tokens per forward pass: fits the cache, fills a GPU


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on the held-out tokens.

    Units: losses and standard errors in nats/token; excess is loss minus the true source's loss
    on the same tokens, null where the source is not known. `groups`: the documents or blocks that
    the standard errors are taken over.
    """

    loss: float
    loss_se: float | None
    tokens: int
    bits_per_byte: float | None
    true_loss: float | None = None
    excess: float | None = None
    excess_se: float | None = None
    groups: int | None = None
    next_token: bool = True
    hidden: bool = False  # tokens were hidden and predicted from both sides

    @property
    def perplexity(self) -> float | None:
        """exp(loss) of a next-token loss; null of others, and where it is beyond floating point."""
        return math.exp(self.loss) if self.loss < 700 and self.next_token else None

    @property
    def pseudo_perplexity(self) -> float | None:
        """exp(loss) of hidden tokens, which were predicted from both sides; null of other losses."""
        return math.exp(self.loss) if self.loss < 700 and self.hidden else None


def evaluate(
    model: nn.Module,
    data: TokenData | HeldOut,
    *,
    context: int,
    objective: Objective | None = None,
    autocast: Callable[[], AbstractContextManager] = contextlib.nullcontext,
) -> Evaluation:
    """Score every held-out token once, in sequences of `context` tokens.

    Args:
        model: returns per-token losses for (inputs, targets, reduction="none").
        data: held-out tokens and, where known, their documents and true log-probabilities.
        context: tokens per sequence.
        objective: what is hidden and predicted; null: each token is predicted from those before it.
        autocast: gives the precision context that the run trains in.
    """
    device = next(model.parameters()).device
    batch_seqs = max(1, EVAL_TOKENS.get(device.type, 4096) // context)
    starts = group_starts(data.document_ends, tokens=len(data.val), context=context)
    scored, true = Sums(starts), Sums(starts)
    model.eval()
    with torch.inference_mode():
        for inputs, targets, first in data.val_batches(
            context=context, batch_seqs=batch_seqs, objective=objective
        ):
            x, y = (torch.as_tensor(a).to(device) for a in (inputs, targets))
            with autocast():
                loss_BT = model(x, y, reduction="none")
            if objective is not None:  # a sequence is the place of all that is predicted in it
                counted = targets != IGNORE
                counted[
                    :, 0
                ] &= not objective.pairs  # a judgement is no token, and has no loss here
                scored.add_some(first, loss_BT.double().cpu().numpy(), counted)
                continue
            place_BT = np.asarray(first)[:, None] + np.arange(inputs.shape[1])
            scored.add(place_BT, loss_BT.double().cpu().numpy())
            if data.true_logprob is not None:
                true.add(place_BT, -data.true_logprob[place_BT].astype(np.float64))
    model.train()
    if objective is not None:
        found = summarise(scored, None, bytes_per_token=None)
        return dataclasses.replace(found, next_token=False, hidden=objective.hides)
    return summarise(scored, true if true.rows else None, bytes_per_token=data.bytes_per_token)


def evaluate_sets(
    model: nn.Module,
    sets: Iterable[HeldOut],
    *,
    context: int,
    objective: Objective | None = None,
    autocast: Callable[[], AbstractContextManager] = contextlib.nullcontext,
) -> dict[str, dict[str, Any]]:
    """Score further held-out sets; returns what the record's `val_sets` holds of each, by name."""
    return {
        s.name: set_values(
            evaluate(model, s, context=context, objective=objective, autocast=autocast), s
        )
        for s in sets
    }


def set_values(result: Evaluation, held_out: HeldOut) -> dict[str, Any]:
    """Return what a record keeps of one validation set; values that are not finite become null."""
    values = {
        "loss": result.loss,
        "se": result.loss_se,
        "tokens": result.tokens,
        "groups": result.groups,
        "bits_per_byte": result.bits_per_byte,
        "perplexity": result.perplexity,
    } | ({"pseudo_perplexity": result.pseudo_perplexity} if result.hidden else {})
    if held_out.characters_per_token and result.bits_per_byte is not None:
        values["bits_per_character"] = result.loss / math.log(2) / held_out.characters_per_token
    if result.excess is not None:
        values |= {
            "true_loss": result.true_loss,
            "excess": result.excess,
            "excess_se": result.excess_se,
        }
    finite = {k: v if v is not None and math.isfinite(v) else None for k, v in values.items()}
    label = {"group": held_out.group, "share": held_out.share} if held_out.group is not None else {}
    return finite | label | {"text": held_out.text, "data_hash": held_out.data_hash}


def group_starts(ends: np.ndarray | None, *, tokens: int, context: int) -> np.ndarray:
    """Return where the independent parts of a held-out text begin.

    Documents, if there are enough of them; else blocks of n^(1/3) sequences of n, the length that
    balances the bias of short blocks against the noise of few (Künsch 1989, Annals of Statistics).

    Args:
        ends: the token after each document's last; None: not known.
        tokens: held-out tokens; context: tokens per sequence.

    Returns:
        int64 [groups] of increasing positions of targets.
    """
    inner = np.asarray([] if ends is None else ends, np.int64)
    inner = inner[(inner > 1) & (inner < tokens)]  # token 0 is no target
    if len(inner) + 1 >= FEW_DOCUMENTS:
        return np.concatenate([[1], inner])
    sequences = max(1, (tokens - 1) // context)
    return 1 + np.arange(0, sequences, max(1, round(sequences ** (1 / 3)))) * context


class Sums:
    """Losses of tokens, added up by group and kept as means by sequence.

    Args:
        starts: int64 [groups], where each group begins.
    """

    def __init__(self, starts: np.ndarray) -> None:
        self.starts = starts
        self.sums = np.zeros(len(starts))
        self.counts = np.zeros(len(starts))
        self.rows: list[np.ndarray] = []

    def add(self, place_BT: np.ndarray, loss_BT: np.ndarray) -> None:
        """Take the losses [nats] of the targets at some places of the text."""
        group = np.searchsorted(self.starts, place_BT.ravel(), side="right") - 1
        self.sums += np.bincount(group, weights=loss_BT.ravel(), minlength=len(self.starts))
        self.counts += np.bincount(group, minlength=len(self.starts))
        self.rows.append(loss_BT.mean(1))

    def add_some(self, first_B: np.ndarray, loss_BT: np.ndarray, counted_BT: np.ndarray) -> None:
        """Take the losses [nats] of some targets of sequences that begin at `first_B`."""
        number_B = counted_BT.sum(1)
        group_B = np.searchsorted(self.starts, np.asarray(first_B), side="right") - 1
        sum_B = (loss_BT * counted_BT).sum(1)
        self.sums += np.bincount(group_B, weights=sum_B, minlength=len(self.starts))
        self.counts += np.bincount(group_B, weights=number_B, minlength=len(self.starts))
        self.rows.append(np.repeat(sum_B / np.maximum(number_B, 1), number_B))

    def mean(self) -> float:
        """Return the mean loss per token."""
        return float(np.concatenate(self.rows).mean())


def standard_error(sums: np.ndarray, counts: np.ndarray) -> float | None:
    """Return the standard error of a mean over tokens that come in independent groups.

    Left out one at a time, the groups move the mean; its variance is (G - 1) / G times the sum of
    the squares (delete-one jackknife). Groups of one size give the usual SD / root G. The linear
    formula for a ratio, sum (S - mean n)^2 G / (G - 1) / N^2, states too little where a few long
    documents make up the text, because they draw the mean to themselves: 0.68 of the scatter of
    seven documents with log-normal lengths (sigma 1.5), where this states 1.07.

    Args:
        sums, counts: total loss [nats] and tokens of each group.

    Source: Miller 1974, The jackknife - a review, Biometrika 61; the linear formula is Cochran's
    1977, Sampling Techniques, section 6.4.
    """
    sums, counts = sums[counts > 0], counts[counts > 0]
    if len(sums) < 2:
        return None
    moves = (sums - sums.sum() / counts.sum() * counts) / (counts.sum() - counts)
    return float(np.sqrt(moves @ moves * (len(sums) - 1) / len(sums)))


def summarise(scored: Sums, true: Sums | None, *, bytes_per_token: float | None) -> Evaluation:
    """Turn losses of a model, and of the true source where it is known, into an evaluation."""
    loss = scored.mean()
    result = Evaluation(
        loss=loss,
        loss_se=standard_error(scored.sums, scored.counts),
        tokens=int(scored.counts.sum()),
        bits_per_byte=loss / math.log(2) / bytes_per_token if bytes_per_token else None,
        groups=int((scored.counts > 0).sum()),
    )
    if true is None:
        return result
    gaps = np.concatenate(scored.rows) - np.concatenate(true.rows)
    return dataclasses.replace(
        result,
        true_loss=true.mean(),
        excess=float(gaps.mean()),
        excess_se=standard_error(scored.sums - true.sums, scored.counts),
    )
