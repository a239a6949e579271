"""Runs that are one run for most of their length: budgets of one model under one WSD schedule.

Until its cooldown begins, a run under warm-up, stable, decay does not know how long it will be.
Runs that differ only in their budget (or in the shape and length of their cooldown) share all
steps before the first cooldown; the longest is the trunk, the others branch off it. Budgets
D x {1, 2, 4, 8, 16} with a cooldown of 20 % cost 19 D instead of 31 D.

Source: the schedule is Hu et al. 2024's (arXiv:2404.06395), section 4; Hägele et al. 2024
(arXiv:2405.18392) show that such branches scale like runs tuned one by one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scaling.study.plan import RunPlan, hash_of
from scaling.study.units import format_flops, format_quantity


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
    common = _common(plan)
    return (
        None if common is None else json.dumps([str(plan.folder.parent), *common], sort_keys=True)
    )


def trunk_hash(plan: RunPlan) -> str | None:
    """Return 8 hex digits of a run's steps before its cooldown, wherever they are trained.

    Runs with one hash see the same tokens with the same weights until the first of them cools down,
    whether that was trained once for all or again for each. Null where `trunk_key` is.
    """
    common = _common(plan)
    return None if common is None else hash_of(common)


def _common(plan: RunPlan) -> list[dict[str, Any]] | None:
    """The plan's identity without what only tells where and how it cools down."""
    if plan.config.optim.schedule != "wsd" or plan.config.data.source == "zipf_memory":
        return None
    asked, resolved, shape = plan.identity
    for name in ("optim.cooldown", "optim.cooldown_shape"):
        asked.pop(name, None)
    for name in ("steps", "cooldown_steps"):
        resolved.pop(name)
    return [asked, resolved, shape]


def find_trunks(plans: Sequence[RunPlan]) -> list[Trunk]:
    """Arrange runs into trunks, each run in exactly one; a run that shares nothing stands alone.

    Args:
        plans: runs, each once.

    Returns:
        Trunks in the order of their first run; branches in the order in which they leave.
    """
    groups: dict[str, list[RunPlan]] = {}
    for plan in plans:
        groups.setdefault(trunk_key(plan) or str(plan.folder), []).append(plan)
    return [trunk for group in groups.values() for trunk in _split(group)]


def _split(group: list[RunPlan]) -> list[Trunk]:
    """The longest run carries the others, as far as it is itself not yet in its cooldown."""
    parent = max(group, key=branch_step)
    others = sorted((p for p in group if p is not parent), key=branch_step)
    useful = tuple(p for p in others if branch_step(p) > 0)
    alone = [Trunk(p, ()) for p in others if branch_step(p) <= 0]
    return [Trunk(parent, useful), *alone]


def common_horizons(plans: Sequence[RunPlan]) -> list[float | None]:
    """Return for each run the budget at which its rules must be read so that trunks can be shared.

    It is the smallest budget of the runs that differ in nothing but budget and cooldown: a batch
    and a warm-up that suit the shortest run cost a longer one little, but not the other way round.

    Args:
        plans: runs of a sweep.

    Returns:
        Tokens, or null for a run that has no sibling.
    """
    groups: dict[str, list[RunPlan]] = {}
    keys = [_sibling_key(plan) for plan in plans]
    for key, plan in zip(keys, plans, strict=True):
        groups.setdefault(key, []).append(plan)
    least = {k: min(p.tokens_target for p in group) for k, group in groups.items()}
    return [
        None if len(groups[k]) < 2 or p.config.optim.schedule != "wsd" else least[k]
        for k, p in zip(keys, plans, strict=True)
    ]


_OF_A_BRANCH = ("horizon", "cooldown", "cooldown_shape")


def _sibling_key(plan: RunPlan) -> str:
    values = plan.config.to_dict()
    values["budget"] = values["model"] = None
    values["optim"] = {k: v for k, v in values["optim"].items() if k not in _OF_A_BRANCH}
    return json.dumps([values, dataclasses.asdict(plan.shape)], sort_keys=True)


def describe_saving(plans: Sequence[RunPlan]) -> str | None:
    """Say what shared trunks save of the counted FLOPs of these runs; null if nothing."""
    trunks = [t for t in find_trunks(plans) if t.branches]
    if not trunks:
        return None
    straight = sum(p.flops_counted for p in plans)
    saved = sum(t.shared_flops for t in trunks)
    runs = sum(len(t.runs) for t in trunks)
    noun = "1 trunk carries" if len(trunks) == 1 else f"{len(trunks)} trunks carry"
    return (
        f"{noun} {runs} runs: {format_flops(straight - saved)} instead of {format_flops(straight)} counted FLOPs "
        f"are trained, {saved / straight:.1%} saved."
    )


def describe_rules(plans: Sequence[RunPlan]) -> list[str]:
    """Say of runs that are to share trunks where their rules are read, and which have no trunk."""
    horizons = sorted({p.config.optim.horizon for p in plans if p.config.optim.horizon is not None})
    lines = []
    if horizons:
        ends = [format_quantity(h) for h in (horizons[0], horizons[-1])]
        lines.append(
            f"Batch, rates and warm-up are read at {' to '.join(dict.fromkeys(ends))} tokens (optim.horizon), the smallest budget "
            "unless it is set. A smaller one added later moves it, and every run is trained anew: set it first if one may come."
        )
    for schedule in sorted({p.config.optim.schedule for p in plans} - {"wsd"}):
        reason = (
            "ends at the budget" if schedule == "cosine" else "has no cooldown to branch off for"
        )
        lines.append(f"No trunks: optim.schedule={schedule} {reason}; wsd can share them.")
    return lines
