"""The memory of a stack: what K models hold lies in one tensor for each parameter and kind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scaling.training.learner import Learner
from scaling.training.optim import set_lr
from scaling.training.stacked import Weights
from scaling.training.update import StackedUpdate, Update

ALIGN = 16  # float32 numbers in 64 bytes: where torch itself would let a parameter begin


class StackMemory:
    """Weights, gradients and moments of all models: a tensor [K, ...] for each parameter and kind.

    Args:
        learners: of one shape, engine and optimiser; they, too, find their weights here.
    """

    def __init__(self, learners: list[Learner]) -> None:
        self.learners = learners
        first = learners[0]
        self.is_adamw = type(first.optimizer) is torch.optim.AdamW
        parameters = dict(first.model.named_parameters())
        names = {id(p): name for name, p in parameters.items()}
        self.order = [names[id(p)] for p in first.parameters]  # in which norms are added
        self.groups = [[names[id(p)] for p in g["params"]] for g in first.optimizer.param_groups]

        def room() -> dict[str, Tensor]:
            return {name: _rows(len(learners), p) for name, p in parameters.items()}

        value, grad, self.exp_avg, self.exp_avg_sq = (room() for _ in range(4))
        self.weights = {name: Weights(value[name], grad[name]) for name in parameters}
        # steps done, a number of its own for every parameter as torch's optimiser has it
        self.count = torch.zeros(len(learners), len(names), device=first.parameters[0].device)
        for slot in range(len(learners)):
            self.adopt(slot, fresh=True)
        # each member alone would be updated so; see `Learner.learn`
        self.update: StackedUpdate | None = None
        if self.is_adamw and first.direct is not None:
            updates = [Update(m.optimizer, m.parameters) for m in learners]
            self.update = StackedUpdate(updates, self.count)
        # what AdamW is called with, by slot and group
        kinds = (value, grad, self.exp_avg, self.exp_avg_sq)
        self.parts = [
            [[[kind[name][slot] for name in group] for kind in kinds] for group in self.groups]
            for slot in range(len(learners))
        ]

    def adopt(self, slot: int, *, fresh: bool = False) -> None:
        """Move a learner's moments, and when `fresh` its weights, into the store."""
        learner = self.learners[slot]
        with torch.no_grad():
            for number, (name, p) in enumerate(learner.model.named_parameters()):
                home = self.weights[name]
                if fresh:
                    home.value[slot].copy_(p)
                    p.data, p.grad = home.value[slot], home.grad[slot]
                    learner.__dict__.pop("direct", None)  # it holds on to where weights were
                if not self.is_adamw:
                    continue
                state = {
                    "step": self.count[slot, number],
                    "exp_avg": self.exp_avg[name][slot],
                    "exp_avg_sq": self.exp_avg_sq[name][slot],
                }
                for key, value in state.items():
                    given = learner.optimizer.state[p].get(key)
                    value.zero_() if given is None else value.copy_(given)
                learner.optimizer.state[p] = state

    def clip(self, max_norm: float) -> Tensor:
        """Scale each model's gradients to a norm of at most `max_norm`; returns norms before [K]."""
        gradients = [self.weights[name].grad.flatten(1) for name in self.order]
        norms_KP = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in gradients], 1)
        norm_K = torch.linalg.vector_norm(norms_KP, dim=1)
        if max_norm:
            scale_K1 = (max_norm / (norm_K + 1e-6)).clamp(max=1.0).unsqueeze(1)
            for gradient in gradients:
                gradient.mul_(scale_K1)
        return norm_K

    @torch.no_grad()
    def step(self, lr: Sequence[float], *, clip: float) -> Tensor:
        """Let every model's optimiser take its step; returns norms before clipping [K]."""
        if self.update is not None:
            return self.update.step(lr, clip=clip)
        norm_K = self.clip(clip)
        self.count.add_(1)
        for slot, (learner, rate) in enumerate(zip(self.learners, lr, strict=True)):
            set_lr(learner.optimizer, rate)
            if not self.is_adamw:
                learner.optimizer.step()
                continue
            count = self.count[slot, 0]
            for group, parts in zip(learner.optimizer.param_groups, self.parts[slot], strict=True):
                values, gradients, exp_avgs, exp_avg_sqs = parts
                beta1, beta2 = group["betas"]
                torch._fused_adamw_(
                    values, gradients, exp_avgs, exp_avg_sqs, [], [count] * len(values),
                    lr=float(group["lr"]), beta1=beta1, beta2=beta2, eps=group["eps"],
                    weight_decay=group["weight_decay"], amsgrad=False, maximize=False,
                )  # fmt: skip
        return norm_K


def _rows(count: int, like: Tensor) -> Tensor:
    """Return zeros [count, *like.shape], each row beginning where torch would let a tensor begin.

    Rows without a gap are one tensor to a batched product, which is faster for its result.
    """
    length = -(-like.numel() // ALIGN) * ALIGN
    rows = torch.zeros(count, length, device=like.device)
    return rows[:, : like.numel()].unflatten(1, like.shape)
