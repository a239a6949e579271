"""AdamW and Muon, gradient clipping, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scaling.study.config import OptimConfig
from scaling.study.errors import ConfigError
from scaling.study.parametrization import STANDARD, Parametrization
from scaling.study.plan import RunPlan

MUON_EPS = 1e-7  # added to the norm that the momentum is divided by; torch's own value


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every step of a run.

    Units: lr and final_lr as rates (1/step); the rest in steps.
    """

    name: str
    lr: float
    steps: int
    warmup_steps: int
    cooldown_steps: int = 0
    cooldown_shape: str = "1-sqrt"
    final_lr: float = 0.0

    @classmethod
    def from_plan(cls, plan: RunPlan) -> Schedule:
        """Return the schedule that a plan asks for."""
        optim = plan.config.optim
        return cls(
            name=optim.schedule,
            lr=plan.lr,
            steps=plan.steps,
            warmup_steps=plan.warmup_steps,
            cooldown_steps=plan.cooldown_steps,
            cooldown_shape=optim.cooldown_shape,
            final_lr=optim.final_lr * plan.lr,
        )

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0.

        The first step has a non-zero rate; the final rate is met after the last step.
        """
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warmup * (self.final_lr + (self.lr - self.final_lr) * self._decay(step))

    def _decay(self, step: int) -> float:
        """Share of the way from the final rate (0) to the peak (1), warm-up aside."""
        if self.name == "cosine":
            done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
        into = step - (self.steps - self.cooldown_steps)
        if self.name == "constant" or into <= 0:
            return 1.0
        # both shapes: Hägele et al. 2024 (arXiv:2405.18392), section 3; 1-sqrt was the better
        done = min(1.0, into / self.cooldown_steps)
        return 1.0 - (math.sqrt(done) if self.cooldown_shape == "1-sqrt" else done)


def build_optimizer(
    model: nn.Module,
    config: OptimConfig,
    *,
    lr: float,
    weight_decay: float,
    parametrization: Parametrization = STANDARD,
) -> torch.optim.Optimizer:
    """Return AdamW in its fused form where the device has one, or Muon beside it.

    Matrices that multiply activations decay. Norms and biases do not: decay would pull a gain
    towards 0. Token and position tables do not either: a rare token's row would shrink between its
    visits, and small rows mean large gradients behind a norm (OLMo 2, arXiv:2501.00656, section 3.4).
    A head that is tied to the token table follows the table.

    Frozen weights are in no group. Each group has the key `scale`, its factor on the run's learning rate; see `set_lr`.

    Raises:
        ConfigError: Muon is asked for and this torch has none.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    tables |= {
        id(p) for name, p in model.named_parameters() if name.endswith(("position", "relative"))
    }
    groups: dict[tuple, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factors = parametrization.factors(name)
        matrix = parameter.dim() >= 2 and id(parameter) not in tables
        orthogonal = config.name == "muon" and matrix and name.startswith("blocks.")
        decay = weight_decay * factors.weight_decay if matrix else 0.0
        key = (orthogonal, not matrix, factors.lr, decay, factors.eps)
        group = groups.setdefault(
            key,
            {"params": [], "lr": lr * factors.lr, "scale": factors.lr, "weight_decay": decay,
             "eps": config.eps * factors.eps},
        )  # fmt: skip
        group["params"].append(parameter)
    by_muon, others = (
        [groups[k] for k in sorted(groups) if k[0] is muon] for muon in (True, False)
    )
    _spare_compiler()
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    adamw = torch.optim.AdamW(others, lr=lr, betas=(config.beta1, config.beta2), fused=fused)
    return MuonAdamW(by_muon, adamw, lr=lr) if by_muon else adamw


def _spare_compiler() -> None:
    """Let optimisers be built without importing torch's compiler, where it is not there yet.

    torch shields these methods from being traced, and loads its compiler for that when they are first
    called: 1.3 s of CPU time, as much as torch itself takes, in every process that trains. Nothing here
    traces an optimiser. The attribute is where torch itself keeps the shielded function (seen in 2.13);
    should another torch not read it, the compiler is loaded as before.
    """
    if "torch._dynamo" in sys.modules:
        return
    for method in (torch.optim.Optimizer.add_param_group, torch.optim.Optimizer.zero_grad):
        plain = getattr(method, "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)  # in a class it would be mangled


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices in blocks and AdamW for the rest, as one optimiser.

    Muon steps along the nearest orthogonal matrix to the momentum. Its step is scaled to entries of
    the size of AdamW's (0.2 sqrt(larger side)), so that rate and decay mean the same for both.

    Args:
        groups: what Muon trains: matrices only.
        adamw: what trains the rest.
        lr: peak learning rate.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; the scale from Liu et al. 2025,
    arXiv:2502.16982, section 2.2.
    """

    def __init__(self, groups: list[dict], adamw: torch.optim.AdamW, *, lr: float) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError(
                f"optim.name: muon needs torch 2.9 or newer; this is {torch.__version__}. "
                "Set optim.name=adamw or update torch."
            )
        for group in groups:
            group["eps"] = MUON_EPS
        muon = torch.optim.Muon(groups, lr=lr, adjust_lr_fn="match_rms_adamw")
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        muon.state = adamw.state = self.state  # one state, so that a checkpoint sees all of it
        self.parts = (muon, adamw)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Let each step its own parameters."""
        for part in self.parts:
            part.step()


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to the run's times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)


def clip_gradients(parameters: list[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `max_norm` (0: leave them).

    Returns:
        The norm before, on the device (reading it waits for the device).
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if max_norm:
        # multiplying by a device number, even by 1, is cheaper than asking whether to
        torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
