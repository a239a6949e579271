"""One process's part of a learner: the whole model under DDP, a share of each weight under FSDP2.

Every step is that of one process on the whole batch, to rounding: each process takes its rows,
weighs them by the whole batch, and gradients and losses are added up.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from scaling.training.learner import Learner, count_targets
from scaling.training.model import Transformer
from scaling.training.optim import set_lr
from scaling.training.world import World

# newer torch warns of the old name
_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)

PRODUCTS = ("attention", "cross", "ffn")  # parts of a block that are divided together


class Part(Learner):
    """This process's part of a learner: the whole model (DDP) or a share of each weight (FSDP).

    Args:
        world: the processes.
        args, keywords: of `Learner`.
    """

    def __init__(self, world: World, *args: Any, **keywords: Any) -> None:
        self.world = world
        super().__init__(*args, **keywords)
        self.sharded = self.engine.parallel == "fsdp"
        if not self.sharded:
            # buffers are constants here; a bucket view saves a second copy of all gradients
            constant: dict[str, Any] = {_BUFFERS: False}
            self.forward = DistributedDataParallel(
                self.model, gradient_as_bucket_view=True, **constant
            )
            self._settle_buckets()

    def place(self, model: Transformer) -> Transformer:
        """Put a new model on the device; under FSDP this process keeps its share only."""
        if self.engine.compile:  # the engines' own work stays outside
            for block in model.blocks:
                block.compile()
        if self.engine.parallel != "fsdp":
            return super().place(model)
        mesh = dist.init_device_mesh(self.world.device.type, (self.world.size,))
        # weights are gathered in the precision that autocast would give the products; norms and
        # tables stay with the root in float32
        policy = MixedPrecisionPolicy()
        if self.engine.precision == "bfloat16":
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        for block in [*model.blocks, *getattr(model, "encoder", ())]:
            products = [part for name, part in block.named_children() if name in PRODUCTS]
            fully_shard(products, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh)  # in place
        return model

    def learn_rows(self, tokens: Tensor, *, rows: int, lr: float) -> tuple[Tensor, Tensor]:
        """Do this process's part of a step.

        Args:
            tokens: int [2, own rows, positions]: inputs and targets.
            rows: of the whole batch.
            lr: learning rate of this step.

        Returns:
            Mean loss of the whole batch in nats/token and its gradient norm before clipping, [1]
            each, the same on every process.
        """
        x, y = tokens.to(self.engine.device, torch.int64, non_blocking=True)
        most = math.ceil(rows / self.world.size)
        passes = math.ceil(most / self.engine.micro_seqs)  # alike everywhere: each is collective
        total = torch.zeros((), device=self.engine.device)
        whole = self._count(y) if self.model.shape.padded else None
        with self.world.contact():
            for number, part in enumerate(np.array_split(np.arange(len(x)), passes)):
                # a process with fewer rows than passes takes one again, with no weight
                own = slice(part[0], part[-1] + 1) if len(part) else slice(0, 1)
                share: Any = len(part) / rows
                if whole is not None:
                    share = count_targets(y[own]) / whole * (len(part) > 0)
                with self._adding_up(last=number == passes - 1):
                    with self.engine.autocast():
                        loss = self.forward(x[own], y[own]) * share
                    total += loss.detach()
                    (loss * self.world.size).backward()  # both engines take the mean over processes
            dist.all_reduce(total)
            norm = self._clip()
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total.view(1), norm.view(1)

    def score_rows(self, tokens: Tensor) -> Tensor:
        """Return the losses [own rows, context] of inputs and targets [2, own rows, context]."""
        own = tokens.shape[1]
        tokens = tokens if own else tokens.new_zeros(2, 1, tokens.shape[2])  # FSDP: all take part
        self.model.eval()
        # FSDP keeps buffers that would be of no use to training, were they made in inference mode
        with torch.inference_mode(False), torch.no_grad(), self.world.contact():
            x, y = tokens.to(self.engine.device, torch.int64, copy=True)
            with self.engine.autocast():
                losses: Tensor = self.model(x, y, reduction="none")
        self.model.train()
        return losses[:own].float().cpu()

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a tensor as one process would have it; collective where it is divided."""
        with self.world.contact():
            return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def spread(self, value: Tensor | None, like: Tensor) -> Tensor:
        """Return what this process keeps of the first one's value, in the manner of `like`."""
        value = torch.empty(like.shape, dtype=like.dtype) if value is None else value
        value = value.to(self.engine.device, like.dtype).contiguous()
        with self.world.contact():
            if isinstance(like, DTensor):
                return distribute_tensor(value, like.device_mesh, like.placements)
            dist.broadcast(value, 0)
        return value

    def take(
        self, names: Sequence[str], shapes: Mapping[str, Any], values: Mapping[str, Tensor]
    ) -> None:
        """Take over a checkpoint whose values only the first process has."""
        parameters = dict(self.model.named_parameters())
        states: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
        for full in names:
            kind, _, rest = full.partition(".")
            if kind == "model":
                parameter = parameters[rest]
                with torch.no_grad():
                    parameter.copy_(self.spread(values.get(full), parameter))
            elif kind == "optim":
                key, _, name = rest.partition(".")
                shape, dtype = shapes[full]
                parameter = parameters[name]
                like = parameter if shape == parameter.shape else torch.empty(shape, dtype=dtype)
                states[name][key] = self.spread(values.get(full), like)
        for name, parameter in parameters.items():
            self.optimizer.state[parameter] = states[name]

    def all_finite(self) -> bool:
        """Return whether every weight of every process is a number; collective."""
        own = all(bool(torch.isfinite(_local(p)).all()) for p in self.parameters)
        flag = torch.tensor(float(own), device=self.engine.device)
        with self.world.contact():
            dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return bool(flag)

    def _count(self, targets: Tensor) -> Tensor:
        """Return how many targets all processes have together."""
        count = count_targets(targets)
        with self.world.contact():
            dist.all_reduce(count)
        return count

    def _adding_up(self, *, last: bool) -> AbstractContextManager:
        """DDP adds gradients up once per step; FSDP in every pass, for it keeps no whole ones."""
        if last or not isinstance(self.forward, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.forward.no_sync()

    def _clip(self) -> Tensor:
        """Scale gradients to the joint norm over all processes; returns the norm before."""
        gradients = [_local(p.grad) for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if self.sharded:
            square = norm.square()
            dist.all_reduce(square)
            norm = square.sqrt()
        if self.clip:
            torch._foreach_mul_(gradients, (self.clip / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def _settle_buckets(self) -> None:
        """Let DDP order its buckets now, by a pass whose gradients are dropped.

        It does so after the first pass it sees. The order decides in which order sums over
        processes are rounded: a resumed run must have from its first step what the other had.
        """
        tokens = torch.zeros(
            self.engine.micro_seqs, self.model.shape.context, dtype=torch.int64, device=self.engine.device
        )  # fmt: skip
        with self.world.contact(), self.engine.autocast():
            self.forward(tokens, tokens).backward()
        self.optimizer.zero_grad(set_to_none=True)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
