"""How long runs will take on this machine: real steps of their shapes, timed once and remembered."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.cli.jobs import seconds_saved, stack_sizes
from scaling.cli.progress import progress_bar
from scaling.study.plan import RunPlan
from scaling.study.record import write_atomic
from scaling.study.trunks import Trunk, find_trunks
from scaling.study.units import format_duration

MEASURED_SHAPES = 40  # more are interpolated, so that measuring stays below a minute
SECONDS_PER_SHAPE = 0.8
LARGEST = 5e10  # counted FLOPs per step; a larger step is not timed on a laptop but extrapolated
MUCH_VALIDATION = 1 / 3  # of a run's time; more than that is said
# Keys of `train` that a step's time depends on. compile=auto is timed as it is for a short run.
_TIMED = (
    "device", "precision", "attention", "threads", "micro_batch_tokens", "recompute", "compile"
)  # fmt: skip
START_UP = 4.0  # s for worker processes to import torch, once per launch


@dataclass(frozen=True)
class Estimate:
    """Seconds by run id, how many runs go on at once, and the part of the seconds that is validation."""

    seconds: dict[str, float]
    jobs: int
    validation: dict[str, float] = field(default_factory=dict)

    def makespan(self, plans: Sequence[RunPlan]) -> float:
        """Return the seconds until all are done: each job starts on the next free worker, dearest first."""
        workers = [0.0] * self.jobs
        for seconds in sorted(map(self._job, find_trunks(plans)), reverse=True):
            first = workers.index(min(workers))
            workers[first] += seconds
        return max(workers) + (START_UP if plans else 0.0)

    def _job(self, trunk: Trunk) -> float:
        """Seconds of a trunk and its branches, shared steps once."""
        saved = sum(seconds_saved(p, self.seconds[p.run_id]) for p in trunk.branches)
        return sum(self.seconds[p.run_id] for p in trunk.runs) - saved

    def describe(self, plans: Sequence[RunPlan]) -> str:
        """Say how long the given runs will take."""
        if not plans:
            return "Nothing is left to train."
        alone = sum(map(self._job, find_trunks(plans)))
        at_once = f", {self.jobs} runs at once" if self.jobs > 1 else ""
        time = f"Estimated time: {format_duration(self.makespan(plans))}{at_once} ({format_duration(alone)} of one worker)."
        return time + self._of_validation(plans)

    def _of_validation(self, plans: Sequence[RunPlan]) -> str:
        """Say what validation takes, where it takes much."""
        share = sum(self.validation.get(p.run_id, 0.0) for p in plans) / sum(
            self.seconds[p.run_id] for p in plans
        )
        if share <= MUCH_VALIDATION:
            return ""
        return f" {share:.0%} of a run's time is validation: fewer data.val_tokens or train.evals take less."


def estimate_seconds(plans: Sequence[RunPlan], jobs: int) -> Estimate:
    """Estimate each run's time from measured steps, `jobs` measurements at once as in training.

    Runs that train as one program are timed as one; each has its share of the time.
    """
    models = stack_sizes(plans, workers=jobs)
    keys = {p.run_id: cost_key(p, jobs=jobs, models=models[p.run_id]) for p in plans}
    costs = _step_costs({keys[p.run_id]: p for p in plans}, jobs)
    seconds, validation = {}, {}
    for plan in plans:
        cost, train = costs[keys[plan.run_id]], plan.config.train
        validation[plan.run_id] = train.evals * plan.config.data.val_tokens * cost.val_token
        seconds[plan.run_id] = cost.run_seconds(
            steps=plan.steps,
            evals=train.evals,
            val_tokens=plan.config.data.val_tokens,
            rows=train.log_points,
        )
    return Estimate(seconds, jobs, validation)


def cost_key(plan: RunPlan, *, jobs: int, models: int) -> str:
    """Name what a step's time depends on, besides the machine.

    Args:
        plan: the run; jobs: runs at once; models: that train as one program.
    """
    train = plan.config.train
    how = {key: getattr(train, key) for key in _TIMED}
    how |= {"optim": plan.config.optim.name, "jobs": jobs, "models": models}
    return json.dumps([dataclasses.asdict(plan.shape), plan.batch_seqs, how], sort_keys=True)


def _models(key: str) -> int:
    """How many models train at once in what a key names."""
    return json.loads(key)[2]["models"]


def _step_costs(by_key: dict[str, RunPlan], jobs: int) -> dict[str, Any]:
    """Return the cost of a step for every key: remembered, measured or interpolated."""
    from scaling.training.calibrate import StepCost

    path, known = _remembered(list(by_key.values()))
    missing = [k for k in by_key if k not in known and _step_flops(by_key[k]) <= LARGEST]
    if not missing and not any(k in known for k in by_key):  # all are large: time the smallest
        missing = [min(by_key, key=lambda k: _step_flops(by_key[k]))]
    chosen = _spread(sorted(missing, key=lambda k: _step_flops(by_key[k])), MEASURED_SHAPES)
    if chosen:
        known |= _measure([by_key[k] for k in chosen], chosen, jobs)
        write_atomic(path, json.dumps(known, indent=0))
    costs = {k: StepCost(**known[k]) for k in by_key if k in known}
    return costs | {k: _interpolate(by_key[k], costs, by_key) for k in by_key if k not in costs}


def _step_flops(plan: RunPlan) -> float:
    return float(plan.flops.counted) * plan.batch_tokens


def _spread(items: list[str], count: int) -> list[str]:
    """Take at most `count` items evenly, the ends included."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _remembered(plans: Sequence[RunPlan]) -> tuple[Path, dict[str, Any]]:
    """Return the file of this machine's measurements and what it holds."""
    from scaling.training.calibrate import machine_label
    from scaling.training.data.cache import cache_folder

    plan = plans[0]
    label = "".join(c if c.isalnum() else "-" for c in machine_label(plan.config.train))
    path = cache_folder(plan.config.data.cache) / "calibration" / f"{label}.json"
    try:
        return path, json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return path, {}


def _measure(plans: Sequence[RunPlan], keys: Sequence[str], jobs: int) -> dict[str, Any]:
    """Time a few steps of each plan, in as many processes as will train."""
    from joblib import Parallel, delayed

    known = {}
    with progress_bar() as progress:
        task = progress.add_task("timing a few steps of each shape", total=len(plans))
        results = Parallel(n_jobs=jobs, return_as="generator")(
            delayed(_measure_one)(p, jobs, _models(k)) for p, k in zip(plans, keys, strict=True)
        )
        for key, cost in zip(keys, results, strict=True):
            known[key] = cost
            progress.advance(task)
    return known


def _measure_one(plan: RunPlan, jobs: int, models: int) -> dict[str, float]:
    from scaling.training.calibrate import measure_step_seconds

    train = plan.config.train
    threads = train.threads or max(1, (os.cpu_count() or 1) // jobs)
    return measure_step_seconds(
        plan.shape, plan.batch_seqs, threads=threads, seconds=SECONDS_PER_SHAPE,
        train=train, optim=plan.config.optim, models=models,
    ).to_dict()  # fmt: skip


def _interpolate(plan: RunPlan, costs: dict[str, Any], by_key: dict[str, RunPlan]) -> Any:
    """Take the cost from the two measured shapes nearest in FLOPs per step, straight in log-log."""
    points = sorted((math.log(_step_flops(by_key[k])), cost) for k, cost in costs.items())
    x = math.log(_step_flops(plan))
    below = [p for p in points if p[0] <= x] or points[:1]
    above = [p for p in points if p[0] > x] or points[-1:]
    (x0, low), (x1, high) = below[-1], above[0]

    def between(name: str) -> float:
        a, b = getattr(low, name), getattr(high, name)
        if x1 == x0:  # beyond what was measured: time follows FLOPs
            return a * math.exp(x - x0)
        return math.exp(math.log(a) + (math.log(b) - math.log(a)) * (x - x0) / (x1 - x0))

    return dataclasses.replace(low, step=between("step"), val_token=between("val_token"))
