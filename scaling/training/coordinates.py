"""Coordinate check: do steps move what a model computes by the same amount at every size?

Under muP a step with one learning rate moves every activation by as much in a wide model as in a
narrow one; under CompleteP also in a deep one. Under the standard parametrisation the movement grows
with size, which is why its best rate falls. A wrong factor anywhere shows here within seconds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaling.study.config import ModelConfig, OptimConfig
from scaling.study.parametrization import Parametrization, with_attention_scale
from scaling.study.shape import ModelShape, resolve_shape
from scaling.study.table import Table
from scaling.training.model import Transformer, build_model
from scaling.training.optim import build_optimizer, clip_gradients, set_lr

VOCAB, SEQUENCES = 64, 8
PARTS = ("embedding", "half way", "last block", "logits")


@dataclass(frozen=True)
class CoordinateCheck:
    """How far the first steps move what each part computes, by size.

    sizes: (width, layers). change: for each, root mean square change of the entries of every part of
    `PARTS` since the fresh model, mean over seeds. loss: nats/token before and after the steps.
    """

    optim: OptimConfig
    steps: int
    sizes: tuple[tuple[int, int], ...]
    change: tuple[tuple[float, ...], ...]
    loss: tuple[tuple[float, float], ...]

    def growth(self, part: str) -> float:
        """Return the exponent by which a part's change grows with size; 0 is flat.

        Size is the width, or the depth where all widths are the same.
        """
        column = PARTS.index(part)
        wide = len({width for width, _ in self.sizes}) > 1
        x = [math.log(size[0 if wide else 1]) for size in self.sizes]
        y = [math.log(row[column]) for row in self.change]
        mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
        above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
        return above / sum((a - mean_x) ** 2 for a in x)

    def table(self) -> Table:
        """Return changes by size, with the exponent of their growth below."""
        rows = [
            (f"{width}", f"{layers}", *(f"{c:.3g}" for c in change), f"{before:.3f} → {after:.3f}")
            for (width, layers), change, (before, after) in zip(
                self.sizes, self.change, self.loss, strict=True
            )
        ]
        growth = ("growth", "", *(f"{self.growth(part):+.2f}" for part in PARTS), "")
        note = f"Root mean square change after {self.steps} steps of {self.optim.name}; growth is the exponent in size."
        return Table(
            ("width", "layers", *PARTS, "loss"),
            [*rows, growth],
            title=self.optim.parametrization,
            note=note,
        )

    def __repr__(self) -> str:
        growth = ", ".join(f"{part} {self.growth(part):+.2f}" for part in PARTS)
        return f"CoordinateCheck({self.optim.parametrization}: growth with size {growth})"


def coordinate_check(
    optim: OptimConfig | None = None,
    *,
    widths: Sequence[int] = (32, 64, 128, 256),
    depths: Sequence[int] = (2,),
    model: ModelConfig | None = None,
    lr: float = 3e-4,
    steps: int = 4,
    seeds: int = 2,
) -> CoordinateCheck:
    """Train models of several sizes for a few steps at one learning rate and see what moved.

    Every step sees the same random tokens, so that all sizes have the same to learn.

    Args:
        optim: parametrisation, base shape, optimiser; its schedule is not used.
        widths, depths: one of the two has one entry; sizes are all pairs.
        model: parts other than width and layers; heads follow the width.
        lr: learning rate of every step, at the base shape [1/step]; small, so that nothing is learnt to the end.
        steps: optimiser steps.
        seeds: models per size.

    Source: Yang et al. 2022, arXiv:2203.03466, appendix D.1; depth as Dey et al. 2025,
    arXiv:2505.01618, figure 7.
    """
    optim = optim or OptimConfig(parametrization="mup")
    model = model or ModelConfig(context=32)
    sizes = [(width, layers) for layers in depths for width in widths]
    changes, losses = [], []
    for width, layers in sizes:
        sized = dataclasses.replace(model, params=None, width=width, layers=layers)
        shape = resolve_shape(sized, vocab=VOCAB)
        shape = with_attention_scale(shape, optim=optim, model=sized)
        runs = [_moved(shape, optim, lr=lr, steps=steps, seed=seed) for seed in range(seeds)]
        changes.append(tuple(sum(c) / seeds for c in zip(*(r[0] for r in runs), strict=True)))
        before, after = (sum(r[1][i] for r in runs) / seeds for i in (0, 1))
        losses.append((before, after))
    return CoordinateCheck(optim, steps, tuple(sizes), tuple(changes), tuple(losses))


def _moved(
    shape: ModelShape, optim: OptimConfig, *, lr: float, steps: int, seed: int
) -> tuple[list[float], tuple[float, float]]:
    """Train one model; returns the change of each part and the losses before and after."""
    parametrization = Parametrization.of(optim, shape)
    model = build_model(shape, attention="sdpa").init_weights(seed, parametrization)
    optimizer = build_optimizer(
        model, optim, lr=lr, weight_decay=0.0, parametrization=parametrization
    )
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCAB, (SEQUENCES, shape.context + 1), generator=generator)
    x_BT, y_BT = tokens[:, :-1], tokens[:, 1:]
    fresh = _activations(model, x_BT)
    losses = []
    for _ in range(steps):
        loss = model(x_BT, y_BT)
        loss.backward()
        losses.append(loss.item())
        clip_gradients(list(model.parameters()), optim.clip)
        set_lr(optimizer, lr)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    moved = [
        (b - a).square().mean().sqrt().item()
        for a, b in zip(fresh, _activations(model, x_BT), strict=True)
    ]
    with torch.no_grad():
        return moved, (losses[0], model(x_BT, y_BT).item())


@torch.no_grad()
def _activations(model: Transformer, x_BT: Tensor) -> list[Tensor]:
    """What each of `PARTS` computes for the tokens."""
    seen: list[Tensor] = []
    half = model.blocks[(len(model.blocks) - 1) // 2]
    modules = [model.embedding, half, model.blocks[-1]]
    handles = [m.register_forward_hook(lambda *a: seen.append(a[-1].clone())) for m in modules]
    logits = model(x_BT)
    for handle in handles:
        handle.remove()
    return [*seen, logits]
