"""Clipping and AdamW of a whole model as two calls of compiled code.

torch's own take some thirty operations, most of the time of a small model's update. Each formula is
that of `torch.optim.AdamW` and `clip_gradients`; results agree to rounding. Gradients are clipped as
they are read, not where they are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scaling.training import native
from scaling.training.optim import set_lr


class Update:
    """The optimiser's step on tensors that stay where they are.

    Args:
        optimizer: AdamW. Its groups are read at every step; its state is begun here where there is
            none, and replacing it makes a new `Update` necessary.
        parameters: all of its parameters, each with its gradient.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
        self.optimizer, state = optimizer, optimizer.state
        groups = {id(p): n for n, g in enumerate(optimizer.param_groups) for p in g["params"]}
        self.group_of = torch.tensor([groups[id(p)] for p in parameters])
        for p in parameters:
            if not state[p]:
                state[p] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}  # fmt: skip
        gradients = [p.grad for p in parameters]
        kinds = (
            [p.detach() for p in parameters],
            [g for g in gradients if g is not None],
            *([state[p][key] for p in parameters] for key in ("exp_avg", "exp_avg_sq")),
        )
        self.steps = [state[p]["step"] for p in parameters]
        self.kept = kinds  # so that no address dangles
        assert all(t.is_contiguous() and t.dtype == torch.float32 for k in kinds for t in k)
        self.tables = [torch.tensor([t.data_ptr() for t in kind]) for kind in kinds]
        self.sizes = torch.tensor([p.numel() for p in parameters])
        self.squares = torch.empty(len(parameters), dtype=torch.float64)

    @torch.no_grad()
    def step(self, lr: float, *, clip: float) -> Tensor:
        """Do a step at a learning rate; returns the gradients' joint norm before clipping.

        Args:
            lr: of the run; every group has its factor, see `set_lr`.
            clip: the largest norm; 0 leaves gradients as they are.
        """
        count, values, sizes = len(self.sizes), self.tables[0], self.sizes
        native.call("squares", torch.float32, self.tables[1], sizes, self.squares, count=count)
        norm = self.squares.sum().sqrt().float()
        scale = (clip / (norm + 1e-6)).clamp(max=1.0) if clip else torch.ones(())
        set_lr(self.optimizer, lr)
        groups = self.optimizer.param_groups
        rates_G3 = torch.tensor(
            [[g["lr"], g["weight_decay"], g["eps"]] for g in groups], dtype=torch.float64
        )
        torch._foreach_add_(self.steps, 1)
        beta1, beta2 = groups[0]["betas"]
        native.call(
            "adamw", torch.float32, values, *self.tables[1:], sizes, rates_G3[self.group_of], scale,
            beta1, beta2, float(self.steps[0]), count=count,
        )  # fmt: skip
        return norm


class StackedUpdate:
    """The same step for the optimisers of K models, in as many calls as one takes.

    Args:
        updates: theirs, of one shape.
        counts: the steps done, [K, parameters], of which each state's `step` is an entry.
    """

    def __init__(self, updates: Sequence[Update], counts: Tensor) -> None:
        self.updates, self.counts = list(updates), counts
        self.group_of = updates[0].group_of
        self.tables = [
            torch.cat(tables) for tables in zip(*(u.tables for u in updates), strict=True)
        ]
        self.sizes = torch.cat([u.sizes for u in updates])
        self.squares_KP = torch.empty(counts.shape, dtype=torch.float64)

    @torch.no_grad()
    def step(self, lr: Sequence[float], *, clip: float) -> Tensor:
        """Do a step; returns norms before clipping [K].

        Args:
            lr: one per model.
            clip: as in `Update.step`.
        """
        if len(done := set(self.counts[:, 0].tolist())) > 1:  # not as far: each by itself
            pairs = zip(self.updates, lr, strict=True)
            return torch.stack([update.step(rate, clip=clip) for update, rate in pairs])
        (K, P), values, sizes = self.counts.shape, self.tables[0], self.sizes
        native.call("squares", torch.float32, self.tables[1], sizes, self.squares_KP, count=K * P)
        norm_K = self.squares_KP.sum(1).sqrt().float()
        scale_K = (clip / (norm_K + 1e-6)).clamp(max=1.0) if clip else torch.ones(K)
        for update, rate in zip(self.updates, lr, strict=True):
            set_lr(update.optimizer, rate)
        groups = [u.optimizer.param_groups for u in self.updates]
        rates_KG3 = torch.tensor(
            [[[g["lr"], g["weight_decay"], g["eps"]] for g in of_model] for of_model in groups],
            dtype=torch.float64,
        )
        self.counts.add_(1)
        beta1, beta2 = groups[0][0]["betas"]
        native.call(
            "adamw", torch.float32, values, *self.tables[1:], sizes, rates_KG3.index_select(1, self.group_of),
            native.OfGroup(scale_K), beta1, beta2, done.pop() + 1, count=K * P, groups=K,
        )  # fmt: skip
        return norm_K
