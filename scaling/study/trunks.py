"""Runs that are one run for most of their length: budgets of one model under one WSD schedule.

Until its cooldown begins, a run under warm-up, stable, decay does not know how long it will be.
Runs that differ only in their budget (or in the shape and length of their cooldown) share all
steps before the first cooldown; the longest is the trunk, the others branch off it. Budgets
D x {1, 2, 4, 8, 16} with a cooldown of 20 % cost 19 D instead of 31 D.

Source: the schedule is Hu et al. 2024's (arXiv:2404.06395), section 4; Hägele et al. 2024
(arXiv:2405.18392) show that such branches scale like runs tuned one by one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from scaling.study.plan import RunPlan


@dataclass(frozen=True)
class Trunk:
    """Runs that share steps: `parent` is the longest, `branches` leave it one after another."""

    parent: RunPlan
    branches: tuple[RunPlan, ...]

    @property
    def runs(self) -> tuple[RunPlan, ...]:
        return (self.parent, *self.branches)

    @property
    def shared_tokens(self) -> int:
        """Tokens that need not be trained again."""
        return sum(branch_step(b) * b.batch_tokens for b in self.branches)

    @property
    def shared_flops(self) -> float:
        """Counted FLOPs that need not be spent again."""
        return float(self.parent.flops.counted) * self.shared_tokens


def branch_step(plan: RunPlan) -> int:
    """Return the steps that a run shares with a longer one: all before its cooldown."""
    return plan.steps - plan.cooldown_steps


def trunk_key(plan: RunPlan) -> str | None:
    """Return what runs of one trunk have in common; null if the schedule has no stable part."""
    if plan.config.optim.schedule != "wsd" or plan.config.data.source == "zipf_memory":
        return None
    asked, resolved, shape = plan.identity
    for name in ("optim.cooldown", "optim.cooldown_shape"):
        asked.pop(name, None)
    for name in ("steps", "cooldown_steps"):
        resolved.pop(name)
    return json.dumps([plan.config.sweep, asked, resolved, shape], sort_keys=True)


def find_trunks(plans: Sequence[RunPlan]) -> list[Trunk]:
    """Arrange runs into trunks, each run in exactly one; a run that shares nothing stands alone.

    Args:
        plans: runs, each once.

    Returns:
        Trunks in the order of their first run; branches in the order in which they leave.
    """
    groups: dict[str, list[RunPlan]] = {}
    for plan in plans:
        groups.setdefault(trunk_key(plan) or plan.run_id, []).append(plan)
    return [trunk for group in groups.values() for trunk in _split(group)]


def _split(group: list[RunPlan]) -> list[Trunk]:
    """The longest run carries the others, as far as it is itself not yet in its cooldown."""
    parent = max(group, key=branch_step)
    others = sorted((p for p in group if p is not parent), key=branch_step)
    useful = tuple(p for p in others if branch_step(p) > 0)
    alone = [Trunk(p, ()) for p in others if branch_step(p) <= 0]
    return [Trunk(parent, useful), *alone]
