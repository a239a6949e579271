"""Model and optimiser on their device, and one optimiser step: the whole of the numerics.

The trainer and the calibration both take their steps here. More devices will wrap `forward` and
hand each process its rows; nothing else needs to know.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scaling.study.config import OptimConfig
from scaling.study.parametrization import Parametrization
from scaling.study.shape import ModelShape
from scaling.training.device import Engine
from scaling.training.model import Transformer
from scaling.training.optim import build_optimizer, clip_gradients, set_lr


class Learner:
    """A model that learns, batch by batch.

    Args:
        shape: the model's.
        engine: device, precision, kernel and micro-batch.
        optim: betas, epsilon, clip.
        lr, weight_decay: peak rate and decay that the optimiser is built with.
        seed: of the weights.
    """

    def __init__(
        self,
        shape: ModelShape,
        engine: Engine,
        *,
        optim: OptimConfig,
        lr: float,
        weight_decay: float,
        seed: int,
    ) -> None:
        self.engine, self.clip = engine, optim.clip
        parametrization = Parametrization.of(optim, shape)
        model = Transformer(shape, attention=engine.attention, recompute=engine.recompute)
        self.model = model.init_weights(seed, parametrization).to(engine.device)
        self.forward = torch.compile(self.model, dynamic=False) if engine.compile else self.model
        self.optimizer = build_optimizer(
            self.model, optim, lr=lr, weight_decay=weight_decay, parametrization=parametrization
        )
        self.parameters: list[Tensor] = list(self.model.parameters())

    def learn(self, inputs: np.ndarray, targets: np.ndarray, *, lr: float) -> tuple[Tensor, Tensor]:
        """Do one optimiser step on a global batch, in micro-batches that add up to it.

        Args:
            inputs, targets: int64 [sequences, context].
            lr: learning rate of this step.

        Returns:
            Mean loss in nats/token and gradient norm before clipping, both left on the device.
        """
        x, y = (
            torch.as_tensor(a).to(self.engine.device, non_blocking=True) for a in (inputs, targets)
        )
        rows, micro = len(x), self.engine.micro_seqs
        total = torch.zeros((), device=self.engine.device)
        for first in range(0, rows, micro):
            part = slice(first, first + micro)
            with self.engine.autocast():
                loss = self.forward(x[part], y[part])
            loss = loss * (min(micro, rows - first) / rows)
            loss.backward()
            total += loss.detach()
        norm = clip_gradients(self.parameters, self.clip)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, norm

    def is_finite(self) -> bool:
        """Return whether every weight is a number."""
        return all(bool(torch.isfinite(p).all()) for p in self.parameters)
