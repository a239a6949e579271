"""One model on several processes: DDP copies it, FSDP2 divides it; both are torch's own.

`DistributedLearner` is a learner to the trainer of the first process. What it is asked it asks of
the others too (`follow`), and deals them their rows of every batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from scaling.study.errors import CheckpointError, TrainError
from scaling.study.plan import RunPlan
from scaling.training.device import Engine
from scaling.training.finetuning import Tuning
from scaling.training.interrupt import Interrupt
from scaling.training.part import Part
from scaling.training.world import World, end_alike


class DistributedLearner:
    """What the trainer of the first process sees: a learner, on all processes at once.

    Args:
        world: the processes.
        plan: of the run that begins; engine: the first process's.
    """

    slots = 1

    def __init__(self, world: World, plan: RunPlan, engine: Engine) -> None:
        self.world = world
        if plan.config.finetune.parts == "lora":
            raise TrainError(
                "finetune.parts=lora: adapters train in one process. Start one, without torchrun or srun, or train other parts."
            )
        world.tell("build", content=(plan, engine))
        self.part = _build(world, plan, engine)
        self.engine = self.part.engine

    def learn(
        self, inputs: np.ndarray, targets: np.ndarray, *, lr: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Do one optimiser step; see `Learner.learn`."""
        tokens = _deal(self.world, "learn", inputs[0], targets[0], lr[0])
        return self.part.learn_rows(tokens, rows=inputs.shape[1], lr=lr[0])

    def module(self, slot: int) -> nn.Module:
        """Return a module that scores sequences, each process its rows of them."""
        return Scorer(self.part)

    def plain(self, slot: int) -> nn.Module:
        """Return the first process's model, to be looked into; under FSDP it has a share of it only."""
        return Scorer(self.part) if self.part.sharded else self.part.model

    def tensors(self, slot: int) -> dict[str, Tensor]:
        """Return all that a checkpoint holds, whole and under plain names; see `Learner`."""
        if not self.part.sharded:  # every process has all of it
            return self.part.tensors(slot)
        self.world.tell("gather")
        # to the CPU one by one: the device need not hold the whole
        return {n: self.part.whole(t).cpu() for n, t in self.part.tensors(slot).items()}

    def settle(self) -> None:
        """Nothing is to be merged: adapters train in one process."""

    def weights(self, slot: int) -> dict[str, Tensor]:
        """Return the weights as they are kept."""
        return {n: t for n, t in self.tensors(slot).items() if n.startswith("model.")}

    def begin(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Start from a plain model's weights."""
        self.load(slot, tensors)

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned, also from another number of processes.

        Raises:
            CheckpointError: a weight is missing or of another shape.
        """
        for name, parameter in self.part.model.named_parameters():
            found = tensors.get(f"model.{name}")
            if found is None or found.shape != parameter.shape:
                raise CheckpointError(
                    f"checkpoint: {name} is {'not there' if found is None else f'of shape {tuple(found.shape)}'}; "
                    f"the model has {tuple(parameter.shape)}. Delete the folder."
                )
        shapes = {n: (t.shape, t.dtype) for n, t in tensors.items()}
        self.world.tell("load", content=(list(tensors), shapes))
        self.part.take(list(tensors), shapes, tensors)

    def is_finite(self, slot: int) -> bool:
        """Return whether every weight is a number."""
        self.world.tell("finite")
        return self.part.all_finite()


class Scorer(nn.Module):
    """A model as `evaluate` calls it; rows of a call are dealt to the processes."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.model = part.model
        self.part = part

    def forward(self, x_BT: Tensor, y_BT: Tensor, *, reduction: str = "none") -> Tensor:
        """Return losses [B, T] in nats/token."""
        world, rows = self.part.world, len(x_BT)
        tokens = _deal(world, "score", x_BT.cpu().numpy(), y_BT.cpu().numpy())
        return _collect(world, self.part.score_rows(tokens), rows)


def follow(world: World) -> Any:
    """Do the first process's orders until it ends, then end as it did.

    Returns:
        What the first process returns.

    A notice (Ctrl-C, SIGTERM, SIGUSR1) is passed on to it: it saves and ends all.

    Raises:
        SystemExit, KeyboardInterrupt, FollowedError: as the first process.
    """
    part: Part | None = None
    with Interrupt() as interrupt, interrupt.deferred():
        while True:
            order, numbers, content = world.hear()
            if order == "end":
                break
            if order == "build":
                part = None  # memory of the last one first
                part = _build(world, *content)
            else:
                assert part is not None
                _obey(part, order, numbers, content)
            if interrupt.signal:
                world.pass_on(interrupt.signal)
    return end_alike(*content)


def _obey(part: Part, order: str, numbers: Sequence[float], content: Any) -> None:
    world = part.world
    if order == "learn":
        rows, context, lr = int(numbers[0]), int(numbers[1]), numbers[2]
        part.learn_rows(_receive(world, rows, context), rows=rows, lr=lr)
    elif order == "score":
        rows, context = int(numbers[0]), int(numbers[1])
        _collect(world, part.score_rows(_receive(world, rows, context)), rows)
    elif order == "gather":
        for tensor in part.tensors(0).values():
            part.whole(tensor)
    elif order == "load":
        names, shapes = content
        part.take(names, shapes, {})
    elif order == "finite":
        part.all_finite()


def _build(world: World, plan: RunPlan, engine: Engine) -> Part:
    """Build this process's part; the engine is the first one's, but for the device."""
    torch.set_num_threads(engine.threads)
    # a replayed graph would leave out what the processes have to say to each other
    own = dataclasses.replace(engine, device=world.device, graphs=False)
    return Part(
        world, plan.shape, own, optim=plan.config.optim, lr=plan.lr, weight_decay=plan.weight_decay, seed=plan.config.seed,
        tuning=Tuning.of(plan),
    )  # fmt: skip


def check_rows(batch_seqs: int, size: int) -> None:
    """Refuse a batch that leaves a process without a sequence.

    Raises:
        TrainError: names the largest number of processes.
    """
    if batch_seqs < size:
        raise TrainError(
            f"train.parallel: a batch of {batch_seqs} sequences cannot be divided over {size} processes. "
            f"Launch {batch_seqs} at most, or set a larger optim.batch_tokens."
        )


def _deal(
    world: World, order: str, inputs: np.ndarray, targets: np.ndarray, lr: float = 0.0
) -> Tensor:
    """Send every process its rows of inputs and targets; returns the first one's own."""
    rows, context = inputs.shape
    world.tell(order, rows, context, lr)
    tokens = torch.from_numpy(np.stack([inputs, targets]).astype(np.int32))
    most = math.ceil(rows / world.size)
    parts = [_padded(tokens[:, s], most) for s in world.rows(rows)]
    own = torch.empty_like(parts[0])
    with world.contact():
        dist.scatter(own, parts, 0, group=world.orders)
    return own[:, : _count(world, rows)]


def _receive(world: World, rows: int, context: int) -> Tensor:
    own = torch.empty(2, math.ceil(rows / world.size), context, dtype=torch.int32)
    with world.contact():
        dist.scatter(own, None, 0, group=world.orders)
    return own[:, : _count(world, rows)]


def _collect(world: World, own_BT: Tensor, rows: int) -> Tensor:
    """Bring the rows of all processes to the first one; others get their own back."""
    padded = _padded(own_BT[None], math.ceil(rows / world.size))[0].contiguous()
    parts = [torch.empty_like(padded) for _ in range(world.size)] if world.first else None
    with world.contact():
        dist.gather(padded, parts, 0, group=world.orders)
    if parts is None:
        return own_BT
    return torch.cat([p[: s.stop - s.start] for p, s in zip(parts, world.rows(rows), strict=True)])


def _count(world: World, rows: int) -> int:
    own = world.rows(rows)[world.rank]
    return own.stop - own.start


def _padded(tokens: Tensor, rows: int) -> Tensor:
    """Return [:, rows, ...] with rows of zeros at the end."""
    missing = rows - tokens.shape[1]
    if not missing:
        return tokens.contiguous()
    return torch.cat([tokens, tokens.new_zeros(tokens.shape[0], missing, *tokens.shape[2:])], 1)
