"""Runs that follow a diverged one at a lower rate, where `retry.diverged` asks for them.

A follower is a run of its own, with its own hash and folder, whose record names the one that diverged
(`retry_of`). That one stays as it is: it is a result, and fits leave it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scaling.cli.compose import Point
from scaling.cli.overrides import as_override
from scaling.study.errors import RecordError
from scaling.study.plan import RunPlan, make_plan
from scaling.study.record import read_record

Runs = list[tuple[Point, RunPlan]]


def find_followers(planned: Sequence[tuple[Point, RunPlan]]) -> Runs:
    """Return the runs that follow the diverged ones of a sweep, done or not, each once.

    A follower that the sweep asks for itself (a sweep of rates) is not returned.
    """
    known = {plan.run_id for _, plan in planned}
    found: Runs = []
    for point, plan in planned:
        for follower in _chain(point, plan):
            if follower[1].run_id not in known:
                known.add(follower[1].run_id)
                found.append(follower)
    return found


def _chain(point: Point, plan: RunPlan) -> Iterator[tuple[Point, RunPlan]]:
    """Yield the run after each run that diverged, as many as are allowed."""
    for _ in range(plan.config.retry.diverged):
        if not _has_diverged(plan):
            return
        point, plan = _follow(point, plan)
        yield point, plan


def _has_diverged(plan: RunPlan) -> bool:
    try:
        return read_record(plan.folder).status == "diverged"
    except RecordError:
        return False


def _follow(point: Point, plan: RunPlan) -> tuple[Point, RunPlan]:
    """Return the same run at a lower rate."""
    scale = plan.config.optim.lr_scale * plan.config.retry.lr_factor
    changes = {"optim.lr_scale": float(f"{scale:.6g}"), "retry.of": plan.run_id}
    config = point.config.replace(**changes)
    kept = [o for o in point.overrides if o.split("=", 1)[0] not in changes]
    point = Point([*kept, *(as_override(k, v) for k, v in changes.items())], config)
    return point, make_plan(config)
