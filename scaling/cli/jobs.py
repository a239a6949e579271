"""Runs into jobs: what one process trains, because runs share a trunk or train as one program."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scaling.cli.compose import Point
from scaling.cli.overrides import as_override
from scaling.study.config import RunConfig, config_values
from scaling.study.errors import ConfigError, TrainError
from scaling.study.plan import RunPlan
from scaling.study.trunks import Trunk, branch_step, find_trunks

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

    def describe(self) -> str:
        """Say how its runs are trained together; an empty string for a run alone."""
        trunks = find_trunks(self.plans)
        if len(self.plans) == 1:
            return ""
        carried = len(self.plans) - len(trunks)
        program = f"{len(trunks)} runs as one program" if len(trunks) > 1 else "1 trunk"
        return f"{program}, {carried} branches after it" if carried else program

    def overrides(self) -> list[str]:
        """Return the overrides that hand these runs to a launcher."""
        first, *others = self.plans
        if not others:
            return list(self.points[0].overrides)
        changes = [_changes(first.config, p.config) for p in others]
        return [*self.points[0].overrides, as_override(TOGETHER, json.dumps(changes))]


def arrange_jobs(runs: Sequence[tuple[Point, RunPlan]], *, workers: int | None = None) -> list[Job]:
    """Put runs that share a trunk, or train faster as one program, into one job.

    Args:
        runs: what is to be trained.
        workers: processes that will train at once, none of which should wait for another; null:
            as many as there are jobs.

    Returns:
        Jobs, the dearest first, so that cores end together.
    """
    points = {plan.run_id: point for point, plan in runs}
    jobs = []
    for trunks in find_programs([plan for _, plan in runs], workers):
        plans = tuple(p for trunk in trunks for p in trunk.runs)
        jobs.append(Job(tuple(points[p.run_id] for p in plans), plans))
    return sorted(jobs, key=lambda job: -job.flops)


def stack_sizes(plans: Sequence[RunPlan], *, workers: int) -> dict[str, int]:
    """Return, by run id, how many models train in the program of each run, its own included."""
    return {
        plan.run_id: len(trunks)
        for trunks in find_programs(plans, workers)
        for trunk in trunks
        for plan in trunk.runs
    }


def find_programs(plans: Sequence[RunPlan], workers: int | None) -> Iterator[list[Trunk]]:
    """Yield, for each job, the trunks that train in it as one program; see `arrange_jobs`."""
    alike: dict[str, list[Trunk]] = {}
    for trunk in find_trunks(plans):
        alike.setdefault(_program_key(trunk.parent), []).append(trunk)
    for trunks in alike.values():
        size = _stack_size(trunks, fewest=1 if workers is None else -(-workers // len(alike)))
        for first in range(0, len(trunks), size):
            yield trunks[first : first + size]


def _program_key(plan: RunPlan) -> str:
    """What runs have in common that may train as one program; the trainer looks closer."""
    how = dataclasses.asdict(plan.config.train)
    return json.dumps(
        [dataclasses.asdict(plan.shape), plan.batch_seqs, plan.steps, how], sort_keys=True
    )


def _stack_size(trunks: Sequence[Trunk], *, fewest: int) -> int:
    """How many trunks one job takes, if at least so many jobs are wanted."""
    plan = trunks[0].parent
    if len(trunks) == 1 or plan.config.data.source == "zipf_memory":
        return 1
    from scaling.training.device import choose_engine
    from scaling.training.stack import choose_stack

    try:
        engine = choose_engine(
            plan.shape, batch_seqs=plan.batch_seqs, train=plan.config.train, tokens=plan.tokens
        )
    except (ConfigError, TrainError):
        return 1  # what a launcher's machines cannot do the runs will say; this may not be one
    size = choose_stack(
        plan.shape,
        engine,
        batch_seqs=plan.batch_seqs,
        runs=len(trunks),
        most=plan.config.train.stack,
    )
    return max(1, min(size, len(trunks) // fewest))


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
