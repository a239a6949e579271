"""Induction heads: does a head look at what followed the present token last time?

A stretch of random tokens is shown twice. Nothing but the first time predicts the second, so that
what a model gains there is what it has learnt to copy, and which head looks at the right place.

Shapes in names: B sequences, R tokens of a stretch, H heads, L layers, T = 2R positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scaling.study.errors import ConfigError
from scaling.study.record import RunRecord, read_record, write_record
from scaling.study.table import Table
from scaling.training.attending import overhear
from scaling.training.claim import Claim
from scaling.training.opened import OpenRun, open_run

SEQUENCES = 64  # 64 x 32 positions: the standard error of a head's score is below 0.01 (measured)


@dataclass(frozen=True, repr=False)
class Induction:
    """How strongly a run copies what it saw before.

    Args:
        run: its id. stretch: R, how many tokens were repeated. sequences: how many stretches.
        scores, scores_se: float64 [L, H]: mean probability that a head gives to the token after the
            present token's first occurrence; 1 is a perfect induction head.
        uniform: what a head that looks at all it sees evenly would score.
        first, second: loss [nats/token] of the first and second time.
        gain, gain_se: first - second.
    """

    run: str
    stretch: int
    sequences: int
    scores: np.ndarray
    scores_se: np.ndarray
    uniform: float
    first: float
    second: float
    gain: float
    gain_se: float

    def __repr__(self) -> str:
        """Return one line: the best head, and the gain."""
        layer, head = self.best
        return f"Induction({self.run}: {self.scores.max():.3f} by layer {layer} head {head}, gain {self.gain:.3f} nats)"

    @property
    def best(self) -> tuple[int, int]:
        """Layer and head of the highest score, counted from 1."""
        layer, head = np.unravel_index(int(self.scores.argmax()), self.scores.shape)
        return int(layer) + 1, int(head) + 1

    def table(self) -> Table:
        """Return the score of every head, one row per layer."""
        rows = [
            [str(i + 1), *(f"{s:.3f} ± {e:.3f}" for s, e in zip(row, errors, strict=True))]
            for i, (row, errors) in enumerate(zip(self.scores, self.scores_se, strict=True))
        ]
        header = ["layer", *(f"head {h + 1}" for h in range(self.scores.shape[1]))]
        note = (
            f"Share of attention on the token after the present one's first occurrence, {self.sequences} stretches of {self.stretch} "
            f"random tokens shown twice; an even look scores {self.uniform:.3f}. Loss {self.first:.3f} the first time, "
            f"{self.second:.3f} the second: {self.gain:.3f} ± {self.gain_se:.3f} nats/token gained."
        )
        return Table(header, rows, note=note)

    def measures(self) -> dict[str, dict[str, Any]]:
        """Return what a record keeps: `induction_score` of the best head, and `repeat_gain`."""
        layer, head = self.best
        return {
            "induction_score": _measure(self.scores.max(), self.scores_se[layer - 1, head - 1], self.sequences),
            "repeat_gain": _measure(self.gain, self.gain_se, self.sequences),
        }  # fmt: skip


def _measure(value: float, error: float, n: int) -> dict[str, Any]:
    return {"value": float(value), "se": float(error), "n": n, "better": "higher"}


def induction(run: str | Path | OpenRun, *, sequences: int = SEQUENCES, seed: int = 0) -> Induction:
    """Score every head of a decoder on random tokens that are shown twice.

    Tokens of a stretch are drawn without replacement, so that the first occurrence is one place.

    Args:
        run: a finished run's folder, or what `open_run` gave.
        sequences: stretches; seed: of their tokens, so that all runs of one vocabulary see the same.

    Returns:
        Scores of heads, and the gain in loss; standard errors are over stretches.

    Raises:
        ConfigError: the model is no decoder, or its context is below 4.
        RecordError, CheckpointError: the run is not finished, or its weights were not kept.

    Source: Olsson et al. 2022, arXiv:2209.11895, prefix matching score.
    """
    opened = run if isinstance(run, OpenRun) else open_run(run)
    shape, vocab = opened.plan.shape, opened.plan.config.data.vocab
    if shape.kind != "decoder":
        raise ConfigError(f"{opened.record.run_id}: model.kind={shape.kind}; induction is asked of decoders, which see only what came before.")  # fmt: skip
    stretch = min(shape.context // 2, vocab)
    if stretch < 2:
        raise ConfigError(f"{opened.record.run_id}: model.context={shape.context} holds no stretch of tokens twice; 4 is the least.")  # fmt: skip
    tokens_BT = torch.as_tensor(repeated_tokens(vocab, stretch, sequences=sequences, seed=seed))
    scores_BLH = torch.stack([_look_back(p, stretch) for p in overhear(opened.model, tokens_BT)["decoder"]], dim=1)  # fmt: skip
    with torch.no_grad():
        loss_BT = opened.model(tokens_BT[:, :-1], tokens_BT[:, 1:], reduction="none").double()
    # the token at t is predicted from t - 1: 1 ... R - 1 are new, R + 1 ... 2R - 1 have a pattern before them
    first_B, second_B = loss_BT[:, : stretch - 1].mean(1), loss_BT[:, stretch:].mean(1)
    seen_T = np.arange(stretch, 2 * stretch - 1) + 1
    return Induction(
        opened.record.run_id, stretch, sequences,
        scores=scores_BLH.mean(0).numpy(), scores_se=_error(scores_BLH).numpy(), uniform=float((1 / seen_T).mean()),
        first=float(first_B.mean()), second=float(second_B.mean()),
        gain=float((first_B - second_B).mean()), gain_se=float(_error(first_B - second_B)),
    )  # fmt: skip


def repeated_tokens(vocab: int, stretch: int, *, sequences: int, seed: int) -> np.ndarray:
    """Return int64 [B, 2R]: stretches of R different tokens, each shown twice."""
    rng = np.random.default_rng([seed, vocab, stretch])
    every = np.tile(np.arange(vocab), (sequences, 1))
    drawn_BR = rng.permuted(every, axis=1)[:, :stretch]
    return np.hstack([drawn_BR, drawn_BR])


def _look_back(p_BHTT: torch.Tensor, stretch: int) -> torch.Tensor:
    """Return each head's mean probability [B, H] of what followed the present token's first occurrence."""
    # at t = R ... 2R - 2 the same token stood at t - R, and was followed by the one at t - R + 1
    diagonal = p_BHTT.diagonal(1 - stretch, -2, -1)  # entries (t, t + 1 - R) from t = R - 1
    return diagonal[..., 1:stretch].mean(-1)


def _error(x_B: torch.Tensor) -> torch.Tensor:
    """Return the standard error of the mean over the first axis."""
    return x_B.std(0) / math.sqrt(len(x_B))


def score_induction(folder: str | Path) -> RunRecord:
    """Add `induction_score` and `repeat_gain` to the measures of a finished run's record; return it.

    Raises:
        as of `induction`; TrainError: another process works on the run.
    """
    folder = Path(folder)
    found = induction(folder).measures()
    with Claim(folder):  # nobody else writes it between reading and writing
        record = read_record(folder)
        record = record.replace(measures={**(record.measures or {}), **found})
        write_record(folder, record)
    return record
