"""Model and optimiser on their device, and one optimiser step: the whole of the numerics.

The trainer and the calibration both take their steps here. A learner has slots, each a set of
weights that learns from its own batch: one here, several in a stack of models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scaling.study.config import OptimConfig
from scaling.study.objective import IGNORE
from scaling.study.parametrization import Parametrization
from scaling.study.plan import RunPlan
from scaling.study.shape import ModelShape
from scaling.training.checkpoint import copy_parameters
from scaling.training.compiling import compile_model
from scaling.training.device import Engine
from scaling.training.direct import Direct, suits_direct
from scaling.training.finetuning import Tuning, beside_adapters, merge, merged_weights, tune
from scaling.training.loss import needs_chunks
from scaling.training.model import Transformer, build_model
from scaling.training.optim import build_optimizer, clip_gradients, set_lr
from scaling.training.update import Update


class Learner:
    """A model that learns, batch by batch.

    Args:
        shape: the model's.
        engine: device, precision, kernel and micro-batch.
        optim: betas, epsilon, clip.
        lr, weight_decay: peak rate and decay that the optimiser is built with.
        seed: of the weights.
        tuning: which of them train; null: all.
    """

    slots = 1

    def __init__(
        self,
        shape: ModelShape,
        engine: Engine,
        *,
        optim: OptimConfig,
        lr: float,
        weight_decay: float,
        seed: int,
        tuning: Tuning | None = None,
    ) -> None:
        self.engine, self.clip = engine, optim.clip
        parametrization = Parametrization.of(optim, shape)
        model = build_model(shape, attention=engine.attention, recompute=engine.recompute)
        model.init_weights(seed, parametrization)
        if tuning is not None:
            tune(model, tuning, seed=seed)
        self.model = self.place(model)
        self.settled: Transformer | None = None  # the plain model, once adapters are merged
        self.forward: Callable[..., Tensor] = self.model
        if engine.compile and engine.parallel == "none":  # else block by block, see `Part`
            self.forward = compile_model(self.model, graphs=engine.graphs)
        self.optimizer = build_optimizer(
            self.model, optim, lr=lr, weight_decay=weight_decay, parametrization=parametrization
        )
        self.parameters: list[Tensor] = [p for p in self.model.parameters() if p.requires_grad]
        self.update: Update | None = None  # of the optimiser's state as it is now

    @classmethod
    def from_plan(cls, plan: RunPlan, engine: Engine) -> Learner:
        """Return the learner that a run begins with."""
        return cls(
            plan.shape, engine, optim=plan.config.optim, lr=plan.lr, weight_decay=plan.weight_decay, seed=plan.config.seed,
            tuning=Tuning.of(plan),
        )  # fmt: skip

    def place(self, model: Transformer) -> Transformer:
        """Put a new model where it will train."""
        return model.to(self.engine.device)

    def learn(
        self, inputs: np.ndarray, targets: np.ndarray, *, lr: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Do one optimiser step on a global batch, in micro-batches that add up to it.

        Args:
            inputs, targets: int64 [slots, sequences, context].
            lr: learning rate of this step, one per slot.

        Returns:
            Mean losses in nats/token and gradient norms before clipping, [slots] each, left on the
            device.
        """
        x, y = (
            torch.as_tensor(a).to(self.engine.device, non_blocking=True)
            for a in (inputs[0], targets[0])
        )
        rows, micro = len(x), self.engine.micro_seqs
        parts = [slice(first, first + micro) for first in range(0, rows, micro)]
        total = self._gradients([(x[part], y[part]) for part in parts])
        if self.direct is not None and type(self.optimizer) is torch.optim.AdamW:
            self.update = self.update or Update(self.optimizer, self.parameters)
            norm = self.update.step(lr[0], clip=self.clip)
            return total.view(1), norm.view(1)
        norm = clip_gradients(self.parameters, self.clip)
        set_lr(self.optimizer, lr[0])
        self.optimizer.step()
        if self.direct is None:  # else the next gradients overwrite these
            self.optimizer.zero_grad(set_to_none=True)
        return total.view(1), norm.view(1)

    def _gradients(self, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Book the gradients of a step's micro-batches; returns the mean loss."""
        total = torch.zeros((), device=self.engine.device)
        shares = _shares(parts, counted=self.model.shape.padded)
        if self.direct is not None:
            self.direct.begin()
        for (x, y), share in zip(parts, shares, strict=True):
            if self.direct is not None:
                total += self.direct.learn(x, y, float(share))
                continue
            with self.engine.autocast():
                loss = self.forward(x, y)
            loss = loss * share
            loss.backward()
            total += loss.detach()
        return total

    @functools.cached_property
    def direct(self) -> Direct | None:
        """Passes without autograd, where model and engine have them."""
        engine, shape = self.engine, self.model.shape
        if engine.compile or engine.recompute or not suits_direct(self.model):
            return None
        if not all(p.requires_grad for p in self.model.parameters()):
            return None  # it writes every gradient
        if needs_chunks(engine.micro_seqs * shape.context, shape.vocab):
            return None
        bfloat16 = engine.precision == "bfloat16"
        return Direct(self.model, torch.bfloat16 if bfloat16 else torch.float32)

    def module(self, slot: int) -> nn.Module:
        """Return the model in a slot, to be called as module(x, y, reduction="none")."""
        return self.settled or self.model

    def plain(self, slot: int) -> nn.Module:
        """Return the model in a slot, to be looked into; what no process has whole is no Transformer."""
        return self.settled or self.model

    def settle(self) -> None:
        """Let the model be looked at, from here on, as it will be kept: adapters become part of the weights."""
        if self.model.adapted:
            self.settled = self.place(merge(self.model, self.engine.attention)).eval()

    def weights(self, slot: int) -> dict[str, Tensor]:
        """Return the weights of a slot as they are kept: `model.NAME` of a plain model."""
        return {f"model.{n}": t for n, t in merged_weights(self.model).items()}

    def begin(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Start from a plain model's weights, `model.NAME`.

        Raises:
            CheckpointError: a weight is missing or of another shape.
        """
        self.load(slot, beside_adapters(self.model, tensors) if self.model.adapted else tensors)

    def tensors(self, slot: int) -> dict[str, Tensor]:
        """Return all that a checkpoint holds of a slot: `model.NAME` and `optim.KEY.NAME`."""
        tensors = {f"model.{n}": p.detach() for n, p in self.model.named_parameters()}
        for name, parameter in self._trained():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optim.{key}.{name}"] = value
        return tensors

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned.

        Raises:
            CheckpointError: a weight is missing or of another shape.
        """
        copy_parameters(self.model, tensors, "model.")
        self.update = None
        states: dict[str, dict[str, Tensor]] = {}
        for full, value in tensors.items():
            kind, _, rest = full.partition(".")
            if kind == "optim":
                key, _, name = rest.partition(".")
                states.setdefault(name, {})[key] = value
        for name, parameter in self._trained():
            state = states.get(name, {})
            self.optimizer.state[parameter] = {
                key: value.to(parameter.device) for key, value in state.items()
            }

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)

    def is_finite(self, slot: int) -> bool:
        """Return whether every weight of a slot is a number."""
        return all(bool(torch.isfinite(p).all()) for p in self.parameters)


def _shares(parts: Sequence[tuple[Tensor, Tensor]], *, counted: bool) -> Sequence[Any]:
    """Return what part of a step's targets each micro-batch has.

    Args:
        counted: sequences differ in targets, which are counted; else rows are.
    """
    if not counted:
        rows = sum(len(x) for x, _ in parts)
        return [len(x) / rows for x, _ in parts]
    targets = torch.stack([count_targets(y) for _, y in parts])
    return (targets / targets.sum()).unbind()


def count_targets(targets_BT: Tensor) -> Tensor:
    """Return how many targets are predicted, left on the device."""
    return (targets_BT != IGNORE).sum().float()
