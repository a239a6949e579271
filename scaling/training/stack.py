"""Many small runs as one program: K models of one shape that learn together.

At the size of a test model a step is mostly overhead: hundreds of operations on a few thousand
numbers each. A stack does every operation once for K models. Members may differ in learning rate,
seed, data order, weight decay and schedule; each has the numbers it would have had alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from scaling.study.plan import RunPlan
from scaling.study.shape import ModelShape, has_common_parts
from scaling.training.device import Engine, available_memory
from scaling.training.direct import Direct
from scaling.training.learner import Learner
from scaling.training.model import Transformer
from scaling.training.stack_memory import StackMemory
from scaling.training.stacked import StackedTransformer, Weights

# How much work one wave of a stack may hold before it leaves the caches: tokens, and tokens x width;
# and the tokens per pass above which a run is better left alone. Measured on one busy core of a Zen 4
# (1 MiB of L2), widths 20, 36 and 64, 256 to 2,048 tokens: the gain hardly depends on the wave (64
# wide at 256 tokens in float32: 1.11, 1.20, 1.17 for waves of 2, 4, 8). In float32 the limit stands
# where stacks ceased to gain: 1.01 at width 64 and 512 tokens.
WAVE = {"float32": (4096, 65_000), "bfloat16": (8192, 262_144)}
LARGEST = 2048

# On a GPU one pass of so many tokens hides the launches. Not measured: no GPU was at hand.
GPU_TOKENS = 65_536

KEEP_SHARE = 0.8  # of the free memory that a stack may take
MOST = 16  # runs in one stack: an interruption stops all of them, and further ones gain little

# Keys of `optim` in which members of one stack may differ.
_FREE = frozenset(
    ("lr", "lr_scale", "batch_tokens", "weight_decay", "schedule", "warmup", "cooldown", "cooldown_shape", "final_lr")
)  # fmt: skip


class StackedLearner:
    """K learners as one; each goes on as if it were alone.

    Args:
        learners: of one shape, engine and optimiser, each in its first state or loaded. Their
            weights, gradients and moments move into the stack's memory, where the learners, too,
            find them.
    """

    def __init__(self, learners: Sequence[Learner], *, wave: int | None = None) -> None:
        self.learners, self.slots = list(learners), len(learners)
        self.engine, self.clip = learners[0].engine, learners[0].clip
        self.wave, self.store = wave, StackMemory(self.learners)
        self._waves: list[tuple[slice, StackedTransformer | Direct]] = []

    def learn(
        self, inputs: np.ndarray, targets: np.ndarray, *, lr: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Do one optimiser step of every model on its own batch; arguments as `Learner.learn` has."""
        x, y = (
            torch.as_tensor(a).to(self.engine.device, non_blocking=True) for a in (inputs, targets)
        )
        totals = [
            self._gradients(model, x[models], y[models]) for models, model in self._divide(x.shape)
        ]
        norm = self.store.step(lr, clip=self.clip)
        return torch.cat(totals), norm

    def _gradients(self, model: StackedTransformer | Direct, x: Tensor, y: Tensor) -> Tensor:
        """Book the gradients of some models' batches, in micro-batches; returns mean losses."""
        rows, micro = x.shape[1], self.engine.micro_seqs
        total = torch.zeros(len(x), device=self.engine.device)
        model.begin()
        for first in range(0, rows, micro):
            part, share = slice(first, first + micro), min(micro, rows - first) / rows
            if isinstance(model, Direct):
                total += model.learn(x[:, part], y[:, part], share)
                continue
            with self.engine.autocast():
                loss, *rest = model(x[:, part], y[:, part])
            loss = loss * share
            model.backward(loss.sum(), *rest)
            total += loss.detach()
        return total

    def _divide(self, sizes: torch.Size) -> list[tuple[slice, StackedTransformer | Direct]]:
        """Return the models that are computed at once, wave after wave."""
        if not self._waves:
            tokens = min(sizes[1], self.engine.micro_seqs) * sizes[2]
            shape = self.learners[0].model.shape
            most = self.wave or _wave(shape, tokens, self.engine)
            count = -(-self.slots // most)
            edges = [self.slots * i // count for i in range(count + 1)]
            for first, last in pairwise(edges):
                frame = Transformer(
                    shape, attention=self.engine.attention, recompute=self.engine.recompute
                ).to(self.engine.device)
                part = slice(first, last)
                weights = {n: w.part(part) for n, w in self.store.weights.items()}
                self._waves.append((part, self._passes(frame, weights)))
        return self._waves

    def _passes(
        self, frame: Transformer, weights: dict[str, Weights]
    ) -> StackedTransformer | Direct:
        """Return the passes of some models: written out where those of a model alone are."""
        plain = self.learners[0].direct
        if plain is None:
            return StackedTransformer(frame, weights)
        for name, home in weights.items():
            owner, _, last = name.rpartition(".")
            parameter = nn.Parameter(home.value)
            parameter.grad = home.grad
            setattr(frame.get_submodule(owner), last, parameter)
        if frame.shape.tied:
            frame.head.weight = frame.embedding.weight
        return Direct(frame, plain.dtype)

    def module(self, slot: int) -> nn.Module:
        """Return the plain model of a slot, to be called as module(x, y, reduction="none")."""
        return self.learners[slot].module(0)

    def plain(self, slot: int) -> nn.Module:
        """Return the plain model of a slot, to be looked into."""
        return self.learners[slot].plain(0)

    def tensors(self, slot: int) -> dict[str, Tensor]:
        """Return all that a checkpoint holds of a slot, under the names of a plain learner."""
        return self.learners[slot].tensors(0)

    def settle(self) -> None:
        """Nothing is to be merged: every weight of a stack trains."""

    def weights(self, slot: int) -> dict[str, Tensor]:
        """Return the weights of a slot as they are kept."""
        return self.learners[slot].weights(0)

    def begin(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Start from a plain model's weights."""
        self.load(slot, tensors)

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` of any learner returned.

        Raises:
            CheckpointError: a weight is missing or of another shape.
        """
        self.learners[slot].load(0, tensors)
        self.store.adopt(slot)

    def is_finite(self, slot: int) -> bool:
        """Return whether every weight of a slot is a number."""
        return self.learners[slot].is_finite(0)

    def keep(self, slots: Sequence[int]) -> StackedLearner:
        """Return a learner of these slots only; this one is not to be used any more."""
        return StackedLearner([self.learners[slot] for slot in slots])


def build_stack(plans: Sequence[RunPlan], engine: Engine) -> StackedLearner:
    """Return a learner with a slot for each plan, in their order.

    Args:
        plans: runs that `can_stack` finds alike.
        engine: what each of them would run on alone.
    """
    return StackedLearner([Learner.from_plan(plan, engine) for plan in plans])


def stack_key(plan: RunPlan, engine: Engine) -> Hashable:
    """Return what runs of one stack have in common; runs with equal keys can be stacked.

    Rates, seeds, orders, decay and schedules may differ; shape, batch, device, and what else the
    optimiser is made of may not.
    """
    optim = {k: v for k, v in asdict(plan.config.optim).items() if k not in _FREE}
    # without decay the optimiser groups its parameters otherwise
    decays = plan.weight_decay > 0
    parts = plan.config.finetune
    return (plan.shape, plan.batch_seqs, engine, decays, parts, tuple(sorted(optim.items())))


def choose_stack(
    shape: ModelShape, engine: Engine, *, batch_seqs: int, runs: int, most: int | str = "auto"
) -> int:
    """Choose how many of some runs to train as one program; 1 where that would not be faster.

    Args:
        shape: theirs.
        engine: what each would run on alone.
        batch_seqs: sequences per optimiser step of one run.
        runs: how many there are with one `stack_key`.
        most: `train.stack`: a number is taken as it is, if memory allows.
    """
    if engine.compile or engine.parallel != "none" or not has_common_parts(shape):
        return 1  # a stacked form of the others is not written
    tokens = min(batch_seqs, engine.micro_seqs) * shape.context
    wanted = _wave(shape, tokens, engine) if isinstance(most, str) else most
    room = KEEP_SHARE * available_memory(engine.device) / engine.memory(shape).total
    wanted = max(
        1, min(wanted, MOST if isinstance(most, str) else wanted, runs, int(min(room, runs)))
    )
    return -(-runs // -(-runs // wanted))  # equal stacks rather than full ones and a rest


def _wave(shape: ModelShape, tokens: int, engine: Engine) -> int:
    """Return how many models are best computed at once.

    Args:
        shape: of each.
        tokens: of one model in one pass.
        engine: what they run on.
    """
    if engine.device.type != "cpu":
        return max(1, GPU_TOKENS // tokens)
    by_tokens, by_width = WAVE[engine.precision]
    if tokens > LARGEST:
        return 1
    return max(1, int(min(by_tokens, by_width / shape.width) / tokens))
