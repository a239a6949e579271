"""Runs into jobs: what one process trains, because its runs share a trunk or a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scaling.cli.compose import Point, as_override
from scaling.study.config import RunConfig, config_values
from scaling.study.plan import RunPlan
from scaling.study.trunks import branch_step, find_trunks

TOGETHER = "together"  # key of a job's further runs; see `further_configs`


@dataclass(frozen=True)
class Job:
    """Runs that one process trains; the first is the longest."""

    points: tuple[Point, ...]
    plans: tuple[RunPlan, ...]

    @property
    def flops(self) -> float:
        """Counted FLOPs that are spent, shared steps once."""
        shared = sum(t.shared_flops for t in find_trunks(self.plans))
        return sum(p.flops_counted for p in self.plans) - shared

    def overrides(self) -> list[str]:
        """Return the overrides that hand these runs to a launcher."""
        first, *others = self.plans
        if not others:
            return list(self.points[0].overrides)
        changes = [_changes(first.config, p.config) for p in others]
        return [*self.points[0].overrides, as_override(TOGETHER, json.dumps(changes))]


def arrange_jobs(runs: Sequence[tuple[Point, RunPlan]]) -> list[Job]:
    """Put runs that share a trunk into one job; the dearest job comes first, so that cores end together."""
    points = {plan.run_id: point for point, plan in runs}
    jobs = [
        Job(tuple(points[p.run_id] for p in trunk.runs), trunk.runs)
        for trunk in find_trunks([plan for _, plan in runs])
    ]
    return sorted(jobs, key=lambda job: -job.flops)


def _changes(config: RunConfig, other: RunConfig) -> dict[str, Any]:
    """Return the keys, with their values, that turn one configuration into the other."""
    pairs = zip(config_values(config), config_values(other), strict=True)
    return {key.name: new for (key, old), (_, new) in pairs if old != new}


def further_configs(config: RunConfig, text: str) -> list[RunConfig]:
    """Return the configurations that `Job.overrides` wrote beside the first."""
    return [config.replace(**changes) for changes in json.loads(text)]


def seconds_saved(plan: RunPlan, seconds: float) -> float:
    """Return the part of a branch's own time that its trunk spends for it."""
    return seconds * branch_step(plan) / plan.steps
