"""The logit lens: what a model would predict if it stopped after each layer.

The model's own last norm and head read the residual stream as each layer left it. Depth 0 is the
stream before the first layer, and the last depth is the model itself, to the bit.

Shapes in names: B sequences, T positions, M depths (layers + 1), V vocabulary, K predictions kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scaling.study.errors import ConfigError
from scaling.study.table import Table
from scaling.training.attending import written_tokens
from scaling.training.data import prepare
from scaling.training.evaluate import evaluate
from scaling.training.model import Transformer
from scaling.training.objectives import build_objective
from scaling.training.opened import OpenRun, open_run

MARKED = 10  # characters of a cell of the table


@dataclass(frozen=True, repr=False)
class Lens:
    """Predictions after each layer, for each position of one text.

    Args:
        run: its id. tokens: labels of the T positions the predicting stack reads.
        predicted: labels [M, T, K] of the K most likely tokens after each layer, the best first.
        probability: float64 [M, T, K] of these.
        loss: float64 [M, T], nats: -log p of the token that follows (of an encoder: of the token itself);
            nan where the text does not say.
    """

    run: str
    tokens: list[str]
    predicted: np.ndarray
    probability: np.ndarray
    loss: np.ndarray

    def __repr__(self) -> str:
        """Return one line: run, depths and positions."""
        depths, length = self.loss.shape
        return f"Lens({self.run}: {depths - 1} layers, {length} positions)"

    def table(self) -> Table:
        """Return the likeliest token after each layer, one row per position, with its probability."""
        depths = len(self.loss)
        header = ["position", "token", "before layers", *(f"layer {i}" for i in range(1, depths))]
        rows = [
            [str(t + 1), token, *(f"{self.predicted[m, t, 0][:MARKED]} {self.probability[m, t, 0]:.2f}" for m in range(depths))]
            for t, token in enumerate(self.tokens)
        ]  # fmt: skip
        mean = [f"{np.nanmean(row):.3f}" if np.isfinite(row).any() else "-" for row in self.loss]
        rows.append(["", "loss [nats]", *mean])
        return Table(
            header,
            rows,
            note="Each cell: the likeliest token and its probability, by the last norm and head on what the layer left.",
        )


def logit_lens(run: str | Path | OpenRun, text: str, *, target: str = "", top: int = 5) -> Lens:
    """Return what a run would predict after each of its layers, while it reads a text.

    Args:
        run: a finished run's folder, or what `open_run` gave.
        text: what is read; target: what the decoder of an encoder_decoder has written.
        top: how many of the likeliest tokens are kept.

    Returns:
        Predictions by depth; of an encoder_decoder those of its decoder.

    Raises:
        RecordError, CheckpointError: the run is not finished, or its weights were not kept.
        DataError: the text has no token, or more than the run reads.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens", LessWrong.
    """
    opened = run if isinstance(run, OpenRun) else open_run(run)
    read_T = opened.encode(text)
    model: Any = opened.model
    if opened.plan.shape.kind == "encoder_decoder":
        seen_T = written_tokens(opened, target)
        with torch.no_grad():
            memory_BSD = model.read(torch.as_tensor(read_T)[None])
        logits = _by_depth(model, lambda: model.write(torch.as_tensor(seen_T)[None], memory_BSD))
    else:
        if target:
            raise ConfigError("target: only an encoder_decoder writes one. Leave it out.")
        seen_T = read_T
        logits = _by_depth(model, lambda: model(torch.as_tensor(seen_T)[None]))
    log_MTV = torch.stack([x_BTV[0].double().log_softmax(-1) for x_BTV in logits])
    best, which = log_MTV.topk(min(top, log_MTV.shape[-1]))
    labels = np.array(
        [[[opened.label(k[None])[0] for k in row] for row in depth] for depth in which.numpy()], object
    )  # fmt: skip
    answers_T = seen_T if opened.plan.shape.kind == "encoder" else np.append(seen_T[1:], -1)
    return Lens(opened.record.run_id, opened.label(seen_T), labels, best.exp().numpy(), _losses(log_MTV, answers_T))  # fmt: skip


def _losses(log_MTV: Tensor, answers_T: np.ndarray) -> np.ndarray:
    """Return -log p of the answers; nan where there is none."""
    index_MT1 = torch.as_tensor(np.maximum(answers_T, 0)).view(1, -1, 1).expand(len(log_MTV), -1, 1)
    loss_MT = -log_MTV.gather(2, index_MT1).squeeze(2).numpy()
    return np.where(answers_T >= 0, loss_MT, math.nan)


def _by_depth(model: Transformer, answer: Any) -> list[Tensor]:
    """Return what `answer` gives with the stream of each depth in the place of the last layer's."""
    out = []
    with torch.no_grad():
        for depth in range(len(model.blocks) + 1):
            with _Stopped(model, depth):
                out.append(answer())
    return out


class _Stopped:
    """A model whose last layer hands on what an earlier one left; depth 0: what the first was given."""

    def __init__(self, model: Transformer, depth: int) -> None:
        self.model, self.depth = model, depth
        self.stream: Tensor | None = None

    def __enter__(self) -> None:
        def keep_input(_: nn.Module, args: tuple[Any, ...]) -> None:
            self.stream = args[0]

        def keep_output(_: nn.Module, __: Any, output: Tensor) -> None:
            self.stream = output

        def hand_on(*_: Any) -> Tensor | None:
            return self.stream

        blocks = self.model.blocks
        kept = (
            blocks[0].register_forward_pre_hook(keep_input)
            if self.depth == 0
            else blocks[self.depth - 1].register_forward_hook(keep_output)
        )
        self.hooks = [kept, blocks[-1].register_forward_hook(hand_on)]

    def __exit__(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()


class _AtDepth(nn.Module):
    """A model that stops at a depth, for `evaluate`."""

    def __init__(self, model: Transformer, depth: int) -> None:
        super().__init__()
        self.model, self.depth = model, depth

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, *, reduction: str) -> Tensor:
        with _Stopped(self.model, self.depth):
            loss_BT: Tensor = self.model(tokens_BT, targets_BT, reduction=reduction)
        return loss_BT


def loss_by_depth(run: str | Path | OpenRun) -> list[tuple[float, float | None]]:
    """Return the loss on the run's held-out tokens if it stopped after each layer, with its error.

    Args:
        run: a finished run's folder, or what `open_run` gave.

    Returns:
        Loss and standard error in nats/token, before the first layer, then after each; the last is
        the run's own `val_loss`, to rounding.

    Raises:
        DataError: the run's text cannot be had any more.
    """
    opened = run if isinstance(run, OpenRun) else open_run(run)
    plan = opened.plan
    data = prepare(plan.config.data, context=plan.config.model.context)
    results = [
        evaluate(
            _AtDepth(opened.model, depth), data, context=plan.shape.context, objective=build_objective(plan)
        )
        for depth in range(len(opened.model.blocks) + 1)
    ]  # fmt: skip
    return [(r.loss, r.loss_se) for r in results]
